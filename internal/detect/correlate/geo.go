package correlate

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Geo finds the places of addresses in a database that the user supplies in the
// MaxMind DB format.
type Geo struct{ db *maxminddb.Reader }

// OpenGeo opens the database in memory; there is nothing to close.
func OpenGeo(data []byte, path string) (*Geo, error) {
	db, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, fmt.Errorf("reading the database of places %s: %w", path, err)
	}
	return &Geo{db}, nil
}

// Place is where an address is thought to be.
type Place struct{ Latitude, Longitude float64 }

// String returns "latitude,longitude" in degrees, to about a kilometre.
func (p Place) String() string {
	return strconv.FormatFloat(p.Latitude, 'f', 2, 64) + "," + strconv.FormatFloat(p.Longitude, 'f', 2, 64)
}

func parsePlace(s string) (Place, bool) {
	lat, lon, _ := strings.Cut(s, ",")
	a, err1 := strconv.ParseFloat(lat, 64)
	b, err2 := strconv.ParseFloat(lon, 64)
	return Place{a, b}, err1 == nil && err2 == nil
}

// Find returns the place of an address; ok is false where the database has none.
func (g *Geo) Find(addr string) (p Place, ok bool) {
	a, err := netip.ParseAddr(addr)
	if g == nil || err != nil {
		return p, false
	}
	var rec struct {
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
	}
	if err := g.db.Lookup(a.Unmap().WithZone("")).Decode(&rec); err != nil || rec.Location.Latitude == nil || rec.Location.Longitude == nil {
		return p, false
	}
	return Place{*rec.Location.Latitude, *rec.Location.Longitude}, true
}

const earthRadius = 6371.0 // km

// distance returns the way over the ground in kilometres.
func (p Place) distance(o Place) float64 {
	rad := func(d float64) float64 { return d * math.Pi / 180 }
	dlat, dlon := rad(o.Latitude-p.Latitude), rad(o.Longitude-p.Longitude)
	h := math.Pow(math.Sin(dlat/2), 2) + math.Cos(rad(p.Latitude))*math.Cos(rad(o.Latitude))*math.Pow(math.Sin(dlon/2), 2)
	return 2 * earthRadius * math.Asin(min(1, math.Sqrt(h)))
}
