package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// session is a connection inside a transaction.
type session interface {
	// later executes a statement before the next that is not later, or before
	// the commit. Its error comes then; rows, when not nil, is set then.
	later(ctx context.Context, text string, args []any, rows *int64) error
	exec(ctx context.Context, text string, args []any) (rows int64, err error)
	// query calls row for each row; scan reads the row's columns.
	query(ctx context.Context, text string, args []any, row func(scan func(dest ...any) error) error) error
}

// engine is what the two databases do differently inside a transaction.
type engine interface {
	// lane gives the lane that the transaction appends to, and its head where
	// that is known without reading it. It is called once.
	lane(t *tx) (name string, head *store.Head, err error)
	// holdSeq gives the next sequence of a hold: higher than that of every
	// transaction that has committed or commits before this one.
	holdSeq(t *tx) (int64, error)
	now(t *reader) (staunch.Time, error)
	// texts keeps the statements that were put together.
	texts() *texts
	// fault is Options.Fault.
	fault(statement string) error
}

var errOver = errors.New("the transaction is over")

// reader implements store.Reader. It is not safe for concurrent use.
type reader struct {
	ctx     context.Context
	session session
	engine  engine
	// failed is the first error of the database. What comes after it would run
	// in a broken transaction, so everything returns it.
	failed error
	// broke says that it was the database's, and not ctx's end.
	broke bool
	// known, of a writer, is what it remembers.
	known *known
	// flush writes what a transaction keeps back.
	flush func() error
	wrote bool
	size  int
}

var _ store.Reader = (*reader)(nil)

// end makes every later use an error.
func (r *reader) end() {
	if r.failed == nil {
		r.failed = errOver
	}
}

func (r *reader) fail(err error) error {
	if r.ctx.Err() == nil && !errors.Is(err, errTurn) {
		err = failed(err)
	}
	if r.failed == nil {
		r.failed = err
		r.broke = r.ctx.Err() == nil
	}
	return err
}

// check refuses what one of the databases could not keep, so that both behave
// the same, and adds up the bytes.
func (r *reader) check(args []any) error {
	for i, a := range args {
		switch v := a.(type) {
		case string:
			if err := store.CheckKey(v); err != nil {
				return err
			}
			r.size += len(v)
		case []byte:
			if err := store.CheckBody(v); err != nil {
				return err
			}
			r.size += len(v)
		case int64:
		default:
			return fmt.Errorf("argument %d is a %T, which the store does not pass on", i+1, a)
		}
	}
	return nil
}

func (r *reader) exec(text string, args ...any) (int64, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	if err := r.check(args); err != nil {
		return 0, err
	}
	r.wrote = true
	err := r.engine.fault(text)
	var n int64
	if err == nil {
		n, err = r.session.exec(r.ctx, text, args)
	}
	if err != nil {
		return 0, r.fail(err)
	}
	return n, nil
}

// later executes a statement whose outcome is not needed now; where a statement
// is a round trip, this one then shares one.
func (r *reader) later(text string, args ...any) error {
	return r.laterCounting(nil, text, args...)
}

func (r *reader) laterCounting(rows *int64, text string, args ...any) error {
	if r.failed != nil {
		return r.failed
	}
	if err := r.check(args); err != nil {
		return err
	}
	r.wrote = true
	err := r.engine.fault(text)
	if err == nil {
		err = r.session.later(r.ctx, text, args, rows)
	}
	if err != nil {
		return r.fail(err)
	}
	return nil
}

// put executes an insertion and tells whether it inserted.
func (r *reader) put(text string, args ...any) (bool, error) {
	n, err := r.exec(text, args...)
	return n > 0, err
}

func (r *reader) query(text string, args []any, row func(scan func(dest ...any) error) error) error {
	if r.failed != nil {
		return r.failed
	}
	if err := r.check(args); err != nil {
		return err
	}
	var own error
	err := r.engine.fault(text)
	if err == nil {
		err = r.session.query(r.ctx, text, args, func(scan func(dest ...any) error) error {
			own = row(scan)
			return own
		})
	}
	if err != nil && own == nil {
		return r.fail(err)
	}
	return err
}

// one reads the columns of a single row; what names it in errors.
func (r *reader) one(what string, text string, args []any, dest ...any) error {
	found := false
	err := r.query(text, args, func(scan func(...any) error) error {
		found = true
		return scan(dest...)
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	if !found {
		return fmt.Errorf("%s: %w", what, staunch.ErrNotFound)
	}
	return nil
}

// optional is one, with a row that is not there as found == false.
func (r *reader) optional(what string, text string, args []any, dest ...any) (found bool, err error) {
	err = r.one(what, text, args, dest...)
	if r.failed == nil && errors.Is(err, staunch.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// get reads one item from its body.
func get[T any](r *reader, what, text string, args ...any) (T, error) {
	var v T
	var body []byte
	if err := r.one(what, text, args, &body); err != nil {
		return v, err
	}
	if err := store.Decode(body, &v); err != nil {
		return v, fmt.Errorf("reading %s: %w", what, err)
	}
	return v, nil
}

// list reads the items of a listing from their bodies.
func list[T any](r *reader, what, text string, args ...any) ([]T, error) {
	out := []T{}
	err := r.query(text, args, func(scan func(...any) error) error {
		var body []byte
		if err := scan(&body); err != nil {
			return err
		}
		var v T
		if err := store.Decode(body, &v); err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", what, err)
	}
	return out, nil
}

// limitOf reads a listing's limit, 0 or less being the default.
func limitOf(n int) int64 {
	if n <= 0 {
		return store.DefaultPage
	}
	return int64(n)
}

func (r *reader) page(p store.Page) int64 { return min(limitOf(p.Limit), store.MaxPage) }

// mostRows bounds the rows of one insertion.
const mostRows = 32

// laterRows inserts rows with as few statements as there can be. head is the
// statement up to VALUES.
func (r *reader) laterRows(head string, rows [][]any) error {
	for part := range slices.Chunk(rows, mostRows) {
		var args []any
		for _, row := range part {
			args = append(args, row...)
		}
		if err := r.later(r.engine.texts().rows(head, len(part), len(part[0])), args...); err != nil {
			return err
		}
	}
	return nil
}

// union is a query with one arm for each of a list of keys. Each arm walks its
// own index range in order and stops at the limit, so that the cost is that of
// the rows returned times the arms, however many rows a key has.
type union struct {
	name string
	// head + arms joined by UNION + tail; @1, @2 … in arm are the arm's own
	// parameters, $1 … $shared those that all have.
	// {@1} stands for a ref whose key that is; see texts.named.
	head, arm, tail string
	shared, own     int
}

const maxArms = 64

// texts keeps the texts of unions by their number of arms, which is a power of
// two, and of insertions by their number of rows, so that they are few and can be
// prepared.
type texts struct {
	// numbered says that refs have numbers in the indexes; see numbers.go.
	numbered bool
	mu       sync.Mutex
	m        map[string]map[int]string
}

func (c *texts) of(u *union, arms int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.m[u.name][arms]; ok {
		return t
	}
	var b strings.Builder
	b.WriteString(u.head)
	for i := range arms {
		if i > 0 {
			b.WriteString(" UNION ")
		}
		arm := u.arm
		for k := range u.own {
			arm = strings.ReplaceAll(arm, "@"+strconv.Itoa(k+1), "$"+strconv.Itoa(u.shared+i*u.own+k+1))
		}
		b.WriteString("SELECT * FROM (" + arm + ") AS a" + strconv.Itoa(i))
	}
	b.WriteString(u.tail)
	return c.keep(u.name, arms, c.named(b.String()))
}

// rows is the text of an insertion of n rows.
func (c *texts) rows(head string, n, width int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.m[head][n]; ok {
		return t
	}
	var b strings.Builder
	b.WriteString(head)
	for i := range n {
		b.WriteString([2]string{" (", ", ("}[min(i, 1)])
		for k := range width {
			if k > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(i*width+k+1))
		}
		b.WriteString(")")
	}
	return c.keep(head, n, b.String())
}

// refs is the text of a statement with named refs.
func (c *texts) refs(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.m[text][0]; ok {
		return t
	}
	return c.keep(text, 0, c.named(text))
}

// named puts a parameter in braces, which has a ref's key, in the form that the
// indexes have: as it is, or as the ref's number.
func (c *texts) named(text string) string {
	if c.numbered {
		return numberOfKey.Replace(text)
	}
	return keyItself.Replace(text)
}

var (
	numberOfKey = strings.NewReplacer("{", "(SELECT n FROM refs WHERE key = unhex(", "}", "))")
	keyItself   = strings.NewReplacer("{", "", "}", "")
)

func (c *texts) keep(name string, n int, text string) string {
	if c.m == nil {
		c.m = map[string]map[int]string{}
	}
	if c.m[name] == nil {
		c.m[name] = map[int]string{}
	}
	c.m[name][n] = text
	return text
}

// fan runs the union over keys, each of u.own values, in chunks. The chunks'
// rows still have to be merged, in order and without doubles.
func (u *union) fan(r *reader, keys [][]any, shared []any, row func(scan func(...any) error) error) error {
	for len(keys) > 0 {
		chunk := keys[:min(len(keys), maxArms)]
		keys = keys[len(chunk):]
		arms := 1
		for arms < len(chunk) {
			arms *= 2
		}
		args := append(make([]any, 0, len(shared)+arms*u.own), shared...)
		for i := range arms {
			// The last key fills up; UNION drops what it gives again.
			args = append(args, chunk[min(i, len(chunk)-1)]...)
		}
		if err := u.query(r, arms, args, row); err != nil {
			return err
		}
	}
	return nil
}

func (u *union) query(r *reader, arms int, args []any, row func(scan func(...any) error) error) error {
	return r.query(r.engine.texts().of(u, arms), args, row)
}

// keysOf returns the refs' keys, each once.
func keysOf(refs []staunch.Ref) [][]any {
	out := make([][]any, 0, len(refs))
	for ref := range eachOnce(refs) {
		out = append(out, []any{ref.Key()})
	}
	return out
}

// eachOnce yields the refs in their order, without repeats and zero ones.
func eachOnce(refs []staunch.Ref) iter.Seq[staunch.Ref] {
	const few = 32 // fewer are compared faster than hashed
	return func(yield func(staunch.Ref) bool) {
		var seen map[staunch.Ref]bool
		if len(refs) > few {
			seen = make(map[staunch.Ref]bool, len(refs))
		}
		for i, ref := range refs {
			switch {
			case ref.IsZero(), seen[ref], seen == nil && slices.Contains(refs[:i], ref):
				continue
			case seen != nil:
				seen[ref] = true
			}
			if !yield(ref) {
				return
			}
		}
	}
}
