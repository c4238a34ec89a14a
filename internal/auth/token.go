package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

const (
	// TokenPrefix begins every token.
	TokenPrefix = "stn_"
	// TokenPattern is a regular expression for secret scanners. A match whose
	// last six characters are the checksum (LooksLikeToken) is a token.
	TokenPattern = `\bstn_[0-9A-Za-z]{49}\b`

	randomBytes = 32
	randomChars = 43 // 62^43 > 2^256
	sumChars    = 6  // 62^6 > 2^32
	tokenLen    = len(TokenPrefix) + randomChars + sumChars

	digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// NewToken makes a token and the hash that is stored in its place. The token is
// "stn_", 256 random bits in 43 base-62 digits, and the CRC-32 (IEEE) of all
// that in six.
func NewToken() (secret staunch.Secret, hash string) {
	var b [randomBytes]byte
	_, _ = rand.Read(b[:]) // never fails; the program ends where there is no randomness
	s := TokenPrefix + base62(new(big.Int).SetBytes(b[:]), randomChars)
	s += checksum(s)
	return staunch.NewSecret(s), HashToken(s)
}

// HashToken returns the hex SHA-256 of a token, the form that is stored.
func HashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// LooksLikeToken reports whether s has a token's form and checksum. It says
// nothing of whether the token was ever made.
func LooksLikeToken(s string) bool {
	if len(s) != tokenLen || !strings.HasPrefix(s, TokenPrefix) {
		return false
	}
	for i := len(TokenPrefix); i < len(s); i++ {
		if strings.IndexByte(digits, s[i]) < 0 {
			return false
		}
	}
	// The checksum keeps no secret, so it need not be compared in constant time.
	return checksum(s[:tokenLen-sumChars]) == s[tokenLen-sumChars:]
}

func checksum(s string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(s)))), sumChars)
}

// base62 writes n in width digits.
func base62(n *big.Int, width int) string {
	out := make([]byte, width)
	base, rest := big.NewInt(int64(len(digits))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, rest)
		out[i] = digits[rest.Int64()]
	}
	return string(out)
}

// Bounds of a stored token.
const (
	MaxName   = 128
	MaxScopes = 100
)

// CheckToken reports what is wrong with a token that is about to be stored. The
// error is a staunch.Problem that names the field.
func CheckToken(t store.Token) error {
	bad := func(field, format string, args ...any) error {
		return &staunch.Problem{Place: field, Reason: fmt.Sprintf(format, args...)}
	}
	if err := checkName(t.Name); err != "" {
		return bad("name", "%s", err)
	}
	// Records name who did it. What a person did must not look like our own doing.
	for _, name := range [...]string{"engine", "SIGHUP", "init"} {
		if strings.EqualFold(t.Name, name) {
			return bad("name", "%s is what records call staunch itself", name)
		}
	}
	role, err := ParseRole(t.Role)
	if err != nil {
		return bad("role", "%.40q is not a role", t.Role)
	}
	if (role == RoleSource) != (t.Source != "") {
		return bad("source", "a token of role source is bound to a source, and no other one is")
	}
	if b, err := hex.DecodeString(t.Hash); err != nil || len(b) != sha256.Size {
		return bad("hash", "is not a hex SHA-256")
	}
	if t.Expires != 0 && t.Expires <= t.Created {
		return bad("expires", "is not after its making")
	}
	for field, list := range map[string][]string{"realms": t.Realms, "owners": t.Owners, "environments": t.Environments} {
		if len(list) > MaxScopes {
			return bad(field, "has %d entries, at most %d", len(list), MaxScopes)
		}
		for i, s := range list {
			if err := checkName(s); err != "" {
				return bad(fmt.Sprintf("%s[%d]", field, i), "%s", err)
			}
		}
	}
	return nil
}

// checkName says what is wrong with a name that goes into records and messages.
func checkName(s string) string {
	switch {
	case s == "" || len(s) > MaxName:
		return fmt.Sprintf("has %d bytes, 1 to %d are allowed", len(s), MaxName)
	case !utf8.ValidString(s):
		return "is not UTF-8"
	case strings.TrimSpace(s) != s:
		return "begins or ends with a blank"
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has a character that does not print"
	}
	return ""
}
