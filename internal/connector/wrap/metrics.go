package wrap

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Meters counts and times calls of connectors. Labels have few values: never
// targets, subjects or realms.
type Meters struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewMeters makes the meters and registers them.
func NewMeters(r prometheus.Registerer) (*Meters, error) {
	m := &Meters{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "staunch_connector_calls_total",
			Help: "Calls of connectors that reach a platform, by platform, method, verb and outcome (ok, or the error's class).",
		}, []string{"platform", "method", "verb", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "staunch_connector_call_seconds",
			Help:    "Duration of calls of connectors that reach a platform, retries and waits for the rate limit included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"platform", "method", "verb"}),
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering the connectors' metrics: %w", err)
		}
	}
	return m, nil
}

// Metrics returns a connector whose calls are counted and timed by m.
func Metrics(c connector.Connector, m *Meters, clock staunch.Clock) connector.Connector {
	platform := c.Describe().Platform
	return intercept(c, func(ctx context.Context, call Call, next func(context.Context) error) error {
		begin := clock.Now()
		err := next(ctx)
		class := "ok"
		if err != nil {
			class = staunch.ClassOf(err).String()
		}
		m.calls.WithLabelValues(platform, string(call.Method), string(call.Verb), class).Inc()
		m.seconds.WithLabelValues(platform, string(call.Method), string(call.Verb)).Observe(clock.Now().Sub(begin).Seconds())
		return err
	})
}
