package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
)

func generated(t testing.TB) (path string, k *Keyring) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keys")
	if err := Generate(path); err != nil {
		t.Fatal(err)
	}
	k, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, k
}

func TestSealOpensOnlyForItsPurposeUnchanged(t *testing.T) {
	_, k := generated(t)
	_, other := generated(t)
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		purpose := rapid.StringN(1, 20, 60).Draw(t, "purpose")
		blob, err := k.Seal(purpose, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(blob) != len(plain)+Overhead {
			t.Fatalf("blob of %d bytes for %d, want %d more", len(blob), len(plain), Overhead)
		}
		if got, err := k.Unseal(purpose, blob); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("unsealed %q, %v", got, err)
		}
		if again, _ := k.Seal(purpose, plain); bytes.Equal(again, blob) {
			t.Fatal("two blobs of one value are alike")
		}
		if _, err := k.Unseal(purpose+"x", blob); !errors.Is(err, ErrTampered) {
			t.Fatalf("another purpose: %v", err)
		}
		if _, err := other.Unseal(purpose, blob); !errors.Is(err, ErrWrongKey) {
			t.Fatalf("another key file: %v", err)
		}
		// Any one bit, and any cut, is noticed.
		bent := bytes.Clone(blob)
		bent[rapid.IntRange(0, len(bent)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := k.Unseal(purpose, bent); !errors.Is(err, ErrTampered) && !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrVersion) {
			t.Fatalf("a changed bit: %v", err)
		}
		if _, err := k.Unseal(purpose, blob[:rapid.IntRange(0, len(blob)-1).Draw(t, "cut")]); !errors.Is(err, ErrTampered) {
			t.Fatalf("a cut: %v", err)
		}
	})
}

func TestUnsealNamesWhatIsWrong(t *testing.T) {
	_, k := generated(t)
	blob, err := k.Seal("token", []byte("hvs.secret"))
	if err != nil {
		t.Fatal(err)
	}
	bend := func(i int) []byte { b := bytes.Clone(blob); b[i] ^= 1; return b }
	// The wrapped key of one blob with the value of another.
	second, _ := k.Seal("token", []byte("hvs.other1"))
	spliced := append(bytes.Clone(blob[:headerSize+wrappedSize]), second[headerSize+wrappedSize:]...)
	for name, c := range map[string]struct {
		blob []byte
		want error
	}{
		"version":     {bend(0), ErrVersion},
		"key id":      {bend(1), ErrWrongKey},
		"wrap nonce":  {bend(headerSize), ErrTampered},
		"wrapped key": {bend(headerSize + 30), ErrTampered},
		"nonce":       {bend(headerSize + wrappedSize), ErrTampered},
		"tag":         {bend(len(blob) - 1), ErrTampered},
		"spliced":     {spliced, ErrTampered},
		"longer":      {append(bytes.Clone(blob), 0), ErrTampered},
		"empty":       {nil, ErrTampered},
	} {
		if _, err := k.Unseal("token", c.blob); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if id, err := KeyOf(blob); err != nil || id != k.KeyIDs()[0] {
		t.Errorf("KeyOf = %q, %v; want %v", id, err, k.KeyIDs())
	}
	for name, c := range map[string]struct {
		purpose string
		size    int
	}{
		"no purpose": {"", 1}, "long purpose": {strings.Repeat("p", MaxPurpose+1), 1}, "large value": {"p", MaxPlain + 1},
	} {
		if _, err := k.Seal(c.purpose, make([]byte, c.size)); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRotation(t *testing.T) {
	path, old := generated(t)
	sealed, err := old.Seal("p", []byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := AddKey(path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := k.KeyIDs(); len(got) != 2 || got[0] != id || got[1] != old.KeyIDs()[0] {
		t.Fatalf("key ids %v, want %s first and %v after", got, id, old.KeyIDs())
	}
	if got, err := k.Unseal("p", sealed); err != nil || string(got) != "before" {
		t.Fatalf("the old value: %q, %v", got, err)
	}
	fresh, err := k.Seal("p", []byte("after"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := KeyOf(fresh); got != id {
		t.Fatalf("sealed with %s, want the new key %s", got, id)
	}
	if _, err := old.Unseal("p", fresh); !errors.Is(err, ErrWrongKey) {
		t.Fatalf("the old keyring: %v", err)
	}
	// The chain and keyed digests survive a rotation; the fingerprint tells.
	if !bytes.Equal(k.MAC("chain", []byte("a")), old.MAC("chain", []byte("a"))) || !bytes.Equal(k.DeriveKey("chain"), old.DeriveKey("chain")) {
		t.Fatal("a rotation changed the MAC")
	}
	if k.Fingerprint() == old.Fingerprint() {
		t.Fatal("a rotation left the fingerprint as it was")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("left behind: %v", err)
	}
}

func TestAddKeyRefusesASecondAtTheSameTime(t *testing.T) {
	path, k := generated(t)
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := AddKey(path); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "delete that file") {
		t.Fatalf("got %v", err)
	}
	if again, err := Load(path); err != nil || again.Fingerprint() != k.Fingerprint() {
		t.Fatalf("the file was changed: %v", err)
	}
}

func TestAddKeyFollowsALinkAndKeepsItOnFailure(t *testing.T) {
	path, _ := generated(t)
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := AddKey(link); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Fatalf("the link was replaced: %v %v", info.Mode(), err)
	}
	if k, err := Load(path); err != nil || len(k.KeyIDs()) != 2 {
		t.Fatalf("%v, %v", k, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := AddKey(path); err == nil {
		t.Fatal("took a file that others read")
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("left behind: %v", err)
	}
}

func TestGenerateNeverOverwrites(t *testing.T) {
	path, k := generated(t)
	if err := Generate(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v", err)
	}
	if again, err := Load(path); err != nil || again.Fingerprint() != k.Fingerprint() {
		t.Fatalf("the file was changed: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestLoadRefusesWhatOthersMayUse(t *testing.T) {
	path, _ := generated(t)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o601, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		var p *staunch.Problem
		if !errors.As(err, &p) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := Load(filepath.Dir(path)); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Load(path + "-none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestParseNamesTheLineAndNeverTheKey(t *testing.T) {
	seal1, seal2, mac1, mac2 := newLine("seal"), newLine("seal"), newLine("mac"), newLine("mac")
	word := func(line string, i int) string { return strings.Fields(line)[i] }
	for name, c := range map[string]struct{ text, want string }{
		"empty":        {"", "keys: has no seal key"},
		"comments":     {"# seal\n\n", "keys: has no seal key"},
		"no mac":       {seal1, "keys: has no mac key"},
		"no seal":      {mac1, "keys: has no seal key"},
		"two macs":     {seal1 + mac1 + mac2, "keys:3: a second mac key"},
		"same twice":   {seal1 + mac1 + "\n" + seal1, "keys:4: the key is there twice"},
		"use":          {"sign" + strings.TrimPrefix(seal1, "seal"), "keys:1: the use is neither"},
		"words":        {"seal " + word(seal1, 2), "keys:1: has 2 words"},
		"prefix":       {"seal " + word(seal1, 1) + " " + strings.TrimPrefix(word(seal1, 2), keyPrefix), "keys:1: the key does not begin"},
		"short key":    {strings.TrimSuffix(seal1, seal1[len(seal1)-5:]), "keys:1: the key is not 32 bytes"},
		"not base64":   {"seal " + word(seal1, 1) + " " + keyPrefix + strings.Repeat("*", 43), "keys:1: the key is not 32 bytes"},
		"other id":     {"seal " + word(seal2, 1) + " " + word(seal1, 2), "keys:1: the id does not belong"},
		"mac as seal":  {"seal " + word(mac1, 1) + " " + word(mac1, 2), "keys:1: the id does not belong"},
		"too many":     {strings.Join(lines(MaxKeys+1), "") + mac1, fmt.Sprintf("keys:%d: more than", MaxKeys+1)},
		"windows ends": {strings.ReplaceAll(seal1+mac1, "\n", "\r\n"), ""},
		"no last end":  {mac1 + strings.TrimSpace(seal1), ""},
	} {
		_, err := parse("keys", []byte(c.text))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || !errors.Is(err, staunch.ErrInvalid)):
			t.Errorf("%s: %v, want %q…", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), word(seal1, 2)[len(keyPrefix):]):
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, bytes.Repeat([]byte("#\n"), MaxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a large file: %v", err)
	}
}

func lines(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = newLine("seal")
	}
	return out
}

func TestMACSeparatesPurposesAndParts(t *testing.T) {
	_, k := generated(t)
	_, other := generated(t)
	seen := map[string]string{}
	add := func(name string, mac []byte) {
		t.Helper()
		if len(mac) != 32 {
			t.Fatalf("%s has %d bytes", name, len(mac))
		}
		if was, ok := seen[string(mac)]; ok {
			t.Errorf("%s and %s are the same", was, name)
		}
		seen[string(mac)] = name
	}
	b := func(s string) []byte { return []byte(s) }
	add("a,bc", k.MAC("p", b("a"), b("bc")))
	add("ab,c", k.MAC("p", b("ab"), b("c")))
	add("abc", k.MAC("p", b("abc")))
	add("abc,", k.MAC("p", b("abc"), nil))
	add("none", k.MAC("p"))
	add("q", k.MAC("q", b("abc")))
	add("other file", other.MAC("p", b("abc")))
	add("derived p", k.DeriveKey("p"))
	add("derived q", k.DeriveKey("q"))
	if !bytes.Equal(k.MAC("p", b("abc")), k.MAC("p", b("abc"))) {
		t.Error("the same parts give different MACs")
	}
}

func TestKeyringPrintsNoKey(t *testing.T) {
	_, k := generated(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, k); got != k.Fingerprint() {
			t.Errorf("%s prints %q", verb, got)
		}
	}
}

// firstBlob is "rolcanlogin", sealed as a pre-image with a key of 32 ones.
const firstBlob = "ATIhg5CZQ9sYPlsPOGQeX9nb5dpQiU1fjzbtt42EE6f7oYFKSkCoHc3W/3a3bR8bK3UgBftxwW2i9CYcb+KchwWb57NcR0q4o0Fa" +
	"A1B9aGaUh5wb8qrhfM89G8BNFWjeydEF0S4EsUz0UjO8/Py/MbyXFtvGmNXaUXMFGaAbiXbPFMS9"

// A blob and a file of the first release must open in every later one.
func TestOpensWhatTheFirstReleaseSealed(t *testing.T) {
	const (
		file = "seal 322183909943db18 stnkey_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n" +
			"mac 16dd2d4389449e6d stnkey_AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI\n"
		mac    = "a32e71bc189880b846d0c7e518747d364f87a421286a60ef36e8e6e0fae35eff"
		key    = "220b6fd63b008ff0ee0706c1b7b4befefc87f9234bdbce5880ab51c308ed45d6"
		finger = "keys:a8505fb18a0deb6c"
	)
	k, err := parse("keys", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(firstBlob)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Unseal("pre-image", b); err != nil || string(got) != "rolcanlogin" {
		t.Errorf("unsealed %q, %v", got, err)
	}
	if got := hex.EncodeToString(k.MAC("chain", []byte("a"), []byte("b"))); got != mac {
		t.Errorf("mac %s", got)
	}
	if got := hex.EncodeToString(k.DeriveKey("chain")); got != key {
		t.Errorf("derived key %s", got)
	}
	if got := k.Fingerprint(); got != finger {
		t.Errorf("fingerprint %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(newLine("seal") + newLine("mac")))
	f.Add([]byte("# comment\n\nseal a b\n"))
	f.Add([]byte("seal\x00 x y\nmac"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parse("keys", text)
		if err != nil {
			if !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("not an ErrInvalid: %v", err)
			}
			return
		}
		blob, err := k.Seal("p", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Unseal("p", blob); err != nil || string(got) != "x" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	k, err := newKeyring([][]byte{bytes.Repeat([]byte{1}, keySize)}, bytes.Repeat([]byte{2}, keySize))
	if err != nil {
		f.Fatal(err)
	}
	// Fixed, since a fuzzer's processes each run this and share their inputs.
	blob, err := base64.StdEncoding.DecodeString(firstBlob)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := k.Unseal("pre-image", b)
		if err == nil && !bytes.Equal(b, blob) {
			t.Fatalf("opened a blob that nobody sealed: %q", got)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	_, k := generated(b)
	plain := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Seal("pre-image", plain); err != nil {
			b.Fatal(err)
		}
	}
}
