package app

import "github.com/staunch-project/staunch/internal/connector"

// Connect puts a connector of the test's own on a realm, between New and Start.
func (a *App) Connect(realm string, c connector.Connector) { a.conns[realm] = c }
