package streams

import "context"

// A strategy can only say what is wrong with an object, as field errors, which the user gets as a 422.
// When the API server itself fails while a strategy works, the error goes up beside it.

type failureKey struct{}

// withFailure returns a context that takes a failure, and a function that returns it.
func withFailure(ctx context.Context) (context.Context, func() error) {
	failure := new(error)
	return context.WithValue(ctx, failureKey{}, failure), func() error { return *failure }
}

func reportFailure(ctx context.Context, err error) {
	if failure, ok := ctx.Value(failureKey{}).(*error); ok {
		*failure = err
	}
}
