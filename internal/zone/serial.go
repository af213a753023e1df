package zone

import "time"

// NextSerial is the serial after old: that of the day (YYYYMMDD00) where it is newer, else old and one (RFC 1982: newer means
// ahead by less than half of all numbers). It is never 0, which some servers take for "none".
func NextSerial(old uint32, now time.Time) uint32 {
	year, month, day := now.UTC().Date()
	today := uint32(year)*1000000 + uint32(month)*10000 + uint32(day)*100
	if old == 0 || Newer(today, old) {
		return today
	}
	return After(old)
}

// After is the next serial after one, never 0.
func After(old uint32) uint32 { return max(old+1, 1) }

// Newer reports whether serial a comes after b.
func Newer(a, b uint32) bool { return int32(a-b) > 0 }
