package agentrouter

import (
	"context"
	"math/rand/v2"
	"time"
)

// The pauses before retries. sdk/cases/retry.json has the rules.
const (
	// basePause is the upper bound of the first pause.
	basePause = 100 * time.Millisecond
	// pauseFactor multiplies the upper bound from one pause to the next.
	pauseFactor = 2
	// pauseCap is the largest upper bound. The server may ask for a longer pause.
	pauseCap = 2 * time.Second
)

// caller makes calls and their retries. Clock and randomness are parameters for tests.
type caller struct {
	timeout time.Duration
	retries int
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	random  func() float64
}

func newCaller(timeout time.Duration, retries int) caller {
	return caller{timeout: timeout, retries: retries, now: time.Now, sleep: sleep, random: rand.Float64}
}

// call makes one call within the timeout. It retries after errors that may be temporary if the call is repeatable.
//
// Repeatable calls are reads, and writes with expected_version: if such a write was made, the server rejects the second.
func call[Q, A any](
	ctx context.Context, c *caller, repeatable bool, req *Q, send func(context.Context, *Q) (*A, error),
) (*A, error) {
	deadline := c.now().Add(c.timeout)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for retry := 0; ; retry++ {
		response, err := send(ctx, req)
		if err == nil {
			return response, nil
		}
		failure := newError(err, ctx)
		if !repeatable || retry >= c.retries || !isRetried(failure) {
			return nil, failure
		}
		pause := failure.RetryAfter + time.Duration(c.random()*float64(pauseBound(retry)))
		// A pause that reaches the end of the call is not begun.
		left := deadline.Sub(c.now())
		if end, ok := ctx.Deadline(); ok {
			left = min(left, time.Until(end))
		}
		if pause >= left || c.sleep(ctx, pause) != nil {
			return nil, failure
		}
	}
}

// isRetried reports whether the same call may succeed a moment later.
func isRetried(e *Error) bool {
	switch e.Code {
	case CodeUnavailable:
		return true
	case CodeResourceExhausted:
		return e.Reason != ReasonBodyTooLarge
	}
	return false
}

// pauseBound is the upper bound of the random part of the pause before retry number retry, from 0. It is random so that
// clients which fail together do not retry together.
func pauseBound(retry int) time.Duration {
	bound := basePause
	for ; retry > 0 && bound < pauseCap; retry-- {
		bound *= pauseFactor
	}
	return min(bound, pauseCap)
}

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
