package agentrouter

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// firstPause is the longest first pause; each later one may be twice as long.
	firstPause = 100 * time.Millisecond
	// longestPause is the longest that is our own choice; the server's Retry-After may be longer.
	longestPause = 2 * time.Second
)

// caller makes calls again where that is safe and may help.
type caller struct {
	timeout time.Duration
	retries int
}

// call makes one call, again if it fails and repeatable, within the timeout as a whole.
//
// Repeatable is what cannot do harm twice: a read, or a write on condition of a version, which is refused the second
// time if the first was done.
func call[Q, A any](
	ctx context.Context, c *caller, repeatable bool, req *Q, send func(context.Context, *Q) (*A, error),
) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for retry := 0; ; retry++ {
		answer, err := send(ctx, req)
		if err == nil {
			return answer, nil
		}
		failure := newError(err, ctx)
		if !repeatable || retry >= c.retries || !mayGetBetter(failure) {
			return nil, failure
		}
		pause := pauseBefore(retry, failure.RetryAfter)
		// What cannot be waited for within the time is told at once.
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
			return nil, failure
		}
		if sleep(ctx, pause) != nil {
			return nil, failure
		}
	}
}

// mayGetBetter tells whether the same call may succeed a moment later.
func mayGetBetter(e *Error) bool {
	switch e.Code {
	case CodeUnavailable:
		return true
	case CodeResourceExhausted:
		// The same code says "too large", which stays so.
		return e.Reason != "BODY_TOO_LARGE"
	}
	return false
}

// pauseBefore is how long to wait before retry number retry (from 0): a random part of a time that doubles, so that
// callers which failed together do not come back together; after what the server asked for, if it did.
func pauseBefore(retry int, asked time.Duration) time.Duration {
	most := longestPause
	if retry < 10 {
		most = min(most, firstPause<<retry)
	}
	return asked + time.Duration(rand.Int64N(int64(most)+1))
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
