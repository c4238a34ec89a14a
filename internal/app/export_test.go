package app

import "context"

// CheckBundle looks at the active bundle, as a node does every two seconds.
func (a *App) CheckBundle(ctx context.Context) error { return a.checkBundle(ctx) }
