package agentrouter

import (
	"context"
	"log/slog"
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
	logger  *slog.Logger
	// invalid is what is wrong with the settings, or nil.
	invalid error
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	random  func() float64
}

func newCaller(timeout time.Duration, retries int, logger *slog.Logger) caller {
	return caller{timeout: timeout, retries: retries, logger: logger, now: time.Now, sleep: sleep, random: rand.Float64}
}

// call makes one call within the timeout. It retries after errors that may be temporary if the call is repeatable.
//
// Repeatable calls are reads, and writes with expected_version: if such a write was made, the server rejects the second.
func call[Q, A any](
	ctx context.Context, c *caller, procedure string, repeatable bool, req *Q,
	send func(context.Context, *Q) (*A, error),
) (*A, error) {
	if c.invalid != nil {
		return nil, c.invalid
	}
	deadline := c.now().Add(c.timeout)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for retry := 0; ; retry++ {
		sent := c.now()
		response, err := send(ctx, req)
		took := c.now().Sub(sent)
		if err == nil {
			c.log(ctx, slog.LevelDebug, "call succeeded", procedure, retry, took)
			return response, nil
		}
		failure := newError(err, ctx)
		fail := func() (*A, error) {
			c.log(ctx, slog.LevelWarn, "call failed", procedure, retry, took, slog.Any("error", failure))
			return nil, failure
		}
		if !repeatable || retry >= c.retries || !isRetried(failure) {
			return fail()
		}
		pause := failure.RetryAfter + time.Duration(c.random()*float64(pauseBound(retry)))
		// A pause that reaches the end of the call is not started.
		left := deadline.Sub(c.now())
		if end, ok := ctx.Deadline(); ok {
			left = min(left, time.Until(end))
		}
		if pause >= left {
			return fail()
		}
		c.log(ctx, slog.LevelInfo, "call is retried", procedure, retry, took, slog.Any("error", failure), slog.Duration("pause", pause))
		if c.sleep(ctx, pause) != nil {
			return fail()
		}
	}
}

// log writes a record about an attempt. It has nothing of the request.
func (c *caller) log(
	ctx context.Context, level slog.Level, message, procedure string, retry int, took time.Duration, more ...slog.Attr,
) {
	if c.logger == nil {
		return
	}
	attributes := append([]slog.Attr{
		slog.String("procedure", procedure), slog.Int("attempt", retry+1), slog.Duration("duration", took),
	}, more...)
	c.logger.LogAttrs(ctx, level, "agentrouter: "+message, attributes...)
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
