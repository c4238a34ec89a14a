package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

const (
	// MaxFile bounds the key file, in bytes.
	MaxFile = 64 << 10
	// MaxKeys bounds the sealing keys in a file.
	MaxKeys = 64

	keyPrefix = "stnkey_"
	fileHead  = `# staunch key file, version 1
#
# Whoever has this file and the database can read everything that staunch
# sealed. Whoever loses it can undo no containment that is in force and check no
# record. Keep a copy of it in another place than the database's.
#
# One key a line: use, id, key. The first "seal" key seals, all of them open; a
# key may be deleted once no value is sealed with it. The one "mac" key holds the
# record chain together and must stay.
`
)

// Generate makes a new key file at path with one sealing key and the MAC key.
// It refuses to overwrite: the error then wraps fs.ErrExist. The file is
// readable by its owner alone and is on disk when Generate returns.
//
// The file is UTF-8 text. Blank lines and lines that begin with # say nothing;
// every other line is "USE ID KEY", separated by blanks: USE is seal or mac,
// KEY is "stnkey_" and 32 random bytes in unpadded URL-safe base64, and ID is
// 16 hex digits that follow from the key, so that a line that was mistyped is
// refused instead of sealing with another key.
func Generate(path string) error {
	text := fileHead + "\n" + newLine("seal") + newLine("mac")
	if err := writeNew(path, []byte(text)); err != nil {
		return fmt.Errorf("making the key file: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("making the key file: %w", err)
	}
	return nil
}

// AddKey puts a new sealing key first in the file and returns its id. Values
// that are sealed already keep opening with the keys they have. The file is
// replaced as a whole or not at all; a second AddKey at the same time fails.
// Every node needs the new file before any node seals with it.
func AddKey(path string) (id string, err error) {
	k, err := change(path, "adding a key", func(path string, text []byte, k *Keyring) ([]byte, error) {
		if len(k.keys) >= MaxKeys {
			return nil, fmt.Errorf("%w: %s has %d sealing keys, the most there may be", staunch.ErrInvalid, path, MaxKeys)
		}
		return insertKey(text, newLine("seal")), nil
	})
	if err != nil {
		return "", err
	}
	return k.KeyIDs()[0], nil
}

// DropOldKeys takes every sealing key but the first out of the file, in the way
// that AddKey adds one, and returns their ids. What is still sealed with one of
// them is lost: the caller has seen that nothing is.
func DropOldKeys(path string) (dropped []string, err error) {
	_, err = change(path, "dropping the old keys", func(_ string, text []byte, k *Keyring) ([]byte, error) {
		dropped = k.KeyIDs()[1:]
		var out bytes.Buffer
		for line := range bytes.Lines(text) {
			if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "seal" && slices.Contains(dropped, string(f[1])) {
				continue
			}
			out.Write(line)
		}
		return out.Bytes(), nil
	})
	if err != nil {
		return nil, err
	}
	return dropped, nil
}

// change replaces a key file by what edit makes of its text, and returns the new
// file's keys.
func change(path, doing string, edit func(path string, text []byte, k *Keyring) ([]byte, error)) (k *Keyring, err error) {
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	// The new file's name is the lock, so it is made before the old one is read.
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s: %w (another rotation is under way, or one was interrupted: then delete that file)", doing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // what went wrong before says more
			_ = os.Remove(next)
		}
	}()

	text, err := read(path)
	if err != nil {
		return nil, err
	}
	if k, err = parse(path, text); err != nil {
		return nil, err
	}
	if text, err = edit(path, text, k); err != nil {
		return nil, err
	}
	if k, err = parse(path, text); err != nil {
		return nil, err
	}
	if err = writeAll(f, text); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if err = os.Rename(next, path); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return k, nil
}

// Load reads a key file. It refuses one that others than its owner may read or
// write (except on Windows, where the mode says nothing of that), and names
// the command that mends it.
func Load(path string) (*Keyring, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	return parse(path, b)
}

func read(path string) ([]byte, error) {
	// Opening a pipe would wait for its other end, so look before.
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &staunch.Problem{Place: path, Reason: "is not a regular file"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was read only
	// Look again at what was opened: the path may name another file by now.
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, &staunch.Problem{
			Place:  path,
			Reason: fmt.Sprintf("others than its owner may use it (mode %04o); run: chmod 600 %s", perm, path),
			Hint:   "chmod 600 " + path,
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	if len(b) > MaxFile {
		return nil, &staunch.Problem{Place: path, Reason: fmt.Sprintf("is longer than %d bytes", MaxFile)}
	}
	return b, nil
}

// parse reads a key file's text. Its errors name the line and never quote it,
// since it may hold a key.
func parse(path string, text []byte) (*Keyring, error) {
	var sealing [][]byte
	var mac []byte
	seen := map[[idSize]byte]bool{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		bad := func(format string, args ...any) error {
			return &staunch.Problem{Place: fmt.Sprintf("%s:%d", path, number), Reason: fmt.Sprintf(format, args...)}
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, bad("has %d words, not the three of: use, id, key", len(fields))
		}
		use := fields[0]
		if use != "seal" && use != "mac" {
			return nil, bad("the use is neither seal nor mac")
		}
		enc, ok := strings.CutPrefix(fields[2], keyPrefix)
		if !ok {
			return nil, bad("the key does not begin with %s", keyPrefix)
		}
		raw, err := base64.RawURLEncoding.Strict().DecodeString(enc)
		if err != nil || len(raw) != keySize {
			return nil, bad("the key is not %d bytes in unpadded URL-safe base64", keySize)
		}
		id := keyID(use, raw)
		if fields[1] != hex.EncodeToString(id[:]) {
			return nil, bad("the id does not belong to the key: the line was mistyped or cut")
		}
		if seen[id] {
			return nil, bad("the key is there twice")
		}
		seen[id] = true
		switch {
		case use == "seal":
			sealing = append(sealing, raw)
		case mac != nil:
			return nil, bad("a second mac key; there is one")
		default:
			mac = raw
		}
		if len(sealing) > MaxKeys {
			return nil, bad("more than %d sealing keys", MaxKeys)
		}
	}
	if len(sealing) == 0 {
		return nil, &staunch.Problem{Place: path, Reason: "has no seal key"}
	}
	if mac == nil {
		return nil, &staunch.Problem{Place: path, Reason: "has no mac key"}
	}
	return newKeyring(sealing, mac)
}

// newLine makes a line of the file with a fresh key.
func newLine(use string) string {
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw) // never fails
	id := keyID(use, raw)
	return use + " " + hex.EncodeToString(id[:]) + " " + keyPrefix + base64.RawURLEncoding.EncodeToString(raw) + "\n"
}

// insertKey puts line before the first line that is a key.
func insertKey(text []byte, line string) []byte {
	var out bytes.Buffer
	done := false
	for l := range bytes.Lines(text) {
		if t := bytes.TrimSpace(l); !done && len(t) > 0 && t[0] != '#' {
			out.WriteString(line)
			done = true
		}
		out.Write(l)
	}
	return out.Bytes()
}

// writeNew makes a file that must not be there, and leaves nothing behind when
// it fails.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := writeAll(f, b); err != nil {
		_ = os.Remove(path)
		return err
	}
	return nil
}

// writeAll writes, syncs and closes f.
func writeAll(f *os.File, b []byte) error {
	_, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes a new or renamed entry survive a crash of the machine.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
