package app

import (
	"context"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// CheckBundle looks at the active bundle, as a node does every two seconds.
func (a *App) CheckBundle(ctx context.Context) error { return a.checkBundle(ctx) }

// Connect puts a connector of the test's own on a realm, between New and Start.
func (a *App) Connect(realm string, c connector.Connector) {
	a.conns[realm], a.modes[realm] = c, staunch.ModeEnforce
}
