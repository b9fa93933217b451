package node

import (
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/router"
)

// show makes t what requests are routed by.
func (n *Node) show(t *control.Table) *router.View {
	v, err := router.NewView(t, n.self.Incarnation)
	if err != nil {
		n.cfg.Log.Error().Err(err).Msg("table not usable")
		return nil
	}
	n.view.Store(v)
	n.version.Store(t.Version)
	return v
}
