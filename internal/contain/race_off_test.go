//go:build !race

package contain_test

// raceEnabled says that the race detector is in, which makes everything slow.
const raceEnabled = false
