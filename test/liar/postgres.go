package liar

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// The lies of PostgreSQL alone: an error in place of the answer, by its SQLSTATE.
// Those that begin with "after" are told after the statement was executed, the
// others in its place. What is not of a statement but of a session ends it.
func sqlErrors(connecting bool) []Lie {
	if connecting {
		return []Lie{"28P01", "53300", "57P03"}
	}
	return []Lie{
		"28P01", "42501", "53300", "57P03", "40001", "57014",
		"after 42501", "after 53300", "after 40001", "after 57014", "after 57P01",
	}
}

// fatal are the SQLSTATEs that end a session.
var fatal = []string{"28P01", "53300", "57P01", "57P03"}

// HalfMark is in the statements that make a part of a change.
const HalfMark = "half of what was asked"

const pgDrip = time.Millisecond

// Postgres says how a PostgreSQL is lied about.
type Postgres struct {
	// Upstream is the real server's host:port. It must not ask for TLS.
	Upstream string
	Deck     *Deck
	// Ask says what a role's statement is about, "" for logging in.
	Ask func(user, sql string) Ask
}

type pgServer struct {
	Postgres
	tb       testing.TB
	listener net.Listener
	old      memory[[]byte]
	ended    chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// Serve starts the server on loopback and returns its host:port. It ends with tb.
func (p Postgres) Serve(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	s := &pgServer{Postgres: p, tb: tb, listener: l, conns: map[net.Conn]bool{}, ended: make(chan struct{})}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(c) })
		}
	})
	tb.Cleanup(func() {
		close(s.ended)
		_ = l.Close()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return l.Addr().String()
}

func (s *pgServer) track(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	select {
	case <-s.ended:
		_ = c.Close()
	default:
	}
}

func (s *pgServer) drop(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	_ = c.Close()
}

// pgConn is one client's session.
type pgConn struct {
	s              *pgServer
	client, server net.Conn
	user, database string
	// statements has the prepared ones' texts by name.
	statements map[string]string
	// status is what the server said last of its transaction: I, T or E.
	status byte
	// failed says that the client takes the transaction for failed, which the
	// server has ended already.
	failed bool
}

func (s *pgServer) serve(client net.Conn) {
	s.track(client)
	defer s.drop(client)
	start, code, err := startup(client)
	if err != nil {
		return
	}
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.Upstream)
	if err != nil {
		return
	}
	s.track(server)
	defer s.drop(server)
	if code == cancelRequest {
		_, _ = server.Write(start)
		return
	}
	params := bytes.Split(start[8:], []byte{0})
	c := &pgConn{s: s, client: client, server: server, statements: map[string]string{}}
	for i := 0; i+1 < len(params); i += 2 {
		switch string(params[i]) {
		case "user":
			c.user = string(params[i+1])
		case "database":
			c.database = string(params[i+1])
		}
	}
	if !c.login(start) {
		return
	}
	for c.exchange() {
	}
}

const (
	sslRequest    = 80877103
	gssRequest    = 80877104
	cancelRequest = 80877102
)

// startup reads a client's first message, and says no to encryption.
func startup(c net.Conn) (message []byte, code uint32, err error) {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c, head); err != nil {
			return nil, 0, err
		}
		n := binary.BigEndian.Uint32(head)
		if n < 8 || n > 1<<16 {
			return nil, 0, errors.New("no startup message")
		}
		rest := make([]byte, n-8)
		if _, err := io.ReadFull(c, rest); err != nil {
			return nil, 0, err
		}
		code = binary.BigEndian.Uint32(head[4:])
		if code != sslRequest && code != gssRequest {
			return append(head, rest...), code, nil
		}
		if _, err := c.Write([]byte("N")); err != nil {
			return nil, 0, err
		}
	}
}

// message reads one message, whole.
func message(c net.Conn) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > maxAnswer {
		return nil, errors.New("no message")
	}
	m := make([]byte, n+1)
	copy(m, head)
	_, err := io.ReadFull(c, m[5:])
	return m, err
}

// cstring cuts a string that ends with a zero.
func cstring(b []byte) (string, []byte) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return string(b), nil
	}
	return string(b[:i]), b[i+1:]
}

// login passes the way to a session on, or lies about it.
func (c *pgConn) login(start []byte) bool {
	lie := c.s.Deck.deal(c.s.Ask(c.user, ""), append(sqlErrors(true), always...), nil)
	switch lie {
	case HangBefore:
		return c.hang()
	case ResetBefore:
		return false
	case "28P01", "53300", "57P03":
		return c.refuse(string(lie))
	}
	if _, err := c.server.Write(start); err != nil {
		return false
	}
	for {
		m, err := message(c.server)
		if err != nil {
			return false
		}
		last := m[0] == 'Z'
		if last {
			c.status = m[5]
			switch lie {
			case HangAfter:
				return c.hang()
			case ResetAfter:
				return false
			case Truncated:
				_, _ = c.client.Write(m[:3])
				return false
			case Late:
				if !c.s.wait(lateBy) {
					return false
				}
			}
		}
		if !c.tell(m, lie) {
			return false
		}
		if last {
			return true
		}
		// AuthenticationOk, SASLFinal and what follows want no answer.
		if m[0] == 'R' {
			if kind := binary.BigEndian.Uint32(m[5:]); kind == 0 || kind == 12 {
				continue
			}
			m, err := message(c.client)
			if err != nil {
				return false
			}
			if _, err := c.server.Write(m); err != nil {
				return false
			}
		}
	}
}

// tell sends an answer, a byte at a time where that is the lie.
func (c *pgConn) tell(b []byte, lie Lie) bool {
	if lie != Drip {
		_, err := c.client.Write(b)
		return err == nil
	}
	for i := range b {
		if _, err := c.client.Write(b[i : i+1]); err != nil {
			return false
		}
		if !c.s.wait(pgDrip) {
			return false
		}
	}
	return true
}

// wait reports whether the server is still there afterwards.
func (s *pgServer) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ended:
		return false
	}
}

// hang waits until the client gives up. It returns false.
func (c *pgConn) hang() bool {
	_, _ = io.Copy(io.Discard, c.client)
	return false
}

// refuse ends a session with an error. It returns false.
func (c *pgConn) refuse(code string) bool {
	_, _ = c.client.Write(sqlError("FATAL", code))
	return false
}

func sqlError(severity, code string) []byte {
	b, err := (&pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: "so it is said"}).Encode(nil)
	if err != nil { // nothing of it can fail
		panic(err)
	}
	return b
}

func ready(status byte) []byte { return []byte{'Z', 0, 0, 0, 5, status} }

// exchange passes one request and its answer on, or lies. It returns false when
// the session is over.
func (c *pgConn) exchange() bool {
	var request []byte
	sql, simple, prepares := "", false, false
	for {
		m, err := message(c.client)
		if err != nil || m[0] == 'X' {
			return false
		}
		request = append(request, m...)
		if len(request) > maxAnswer {
			return false
		}
		body := m[5:]
		switch m[0] {
		case 'Q':
			sql, _ = cstring(body)
			simple = true
		case 'P':
			name, rest := cstring(body)
			sql, _ = cstring(rest)
			c.statements[name] = sql
			prepares = true
		case 'B':
			_, rest := cstring(body)
			name, _ := cstring(rest)
			sql = c.statements[name]
			prepares = false
		}
		if m[0] == 'Q' || m[0] == 'S' {
			break
		}
	}
	if c.failed {
		return c.afterFailure(sql)
	}
	ask := c.s.Ask(c.user, sql)
	// What a transaction sees is what it has locked: no other server knows it.
	reads := ask.Reads && !prepares && c.status == 'I'
	key := c.database + "\x00" + sql + "\x00" + string(request)
	var old [][]byte
	now := slices.Concat(always, sqlErrors(false))
	var others []Lie
	if reads {
		if old = c.s.old.get(key); len(old) > 0 {
			now = append(now, Stale)
		} else {
			others = append(others, Stale)
		}
	}
	if ask.Change && simple {
		now = append(now, Hollow)
		if ask.Parts {
			if len(parts(sql)) > 2 {
				now = append(now, Partial)
			} else {
				others = append(others, Partial)
			}
		}
	}
	lie := c.s.Deck.deal(ask, now, others)
	code, after := strings.CutPrefix(string(lie), "after ")
	switch lie {
	case HangBefore:
		return c.hang()
	case ResetBefore:
		return false
	case Stale:
		return c.tell(old[c.s.Deck.pick(len(old))], Truth)
	case Hollow, Partial:
		return c.pretend(sql, lie)
	}
	isError := slices.Contains(sqlErrors(false), lie)
	if isError && !after {
		if slices.Contains(fatal, code) {
			return c.refuse(code)
		}
		return c.fail(code)
	}
	answer, ok := c.ask(request)
	if !ok {
		return false
	}
	if reads && !slices.ContainsFunc(split(answer), func(m []byte) bool { return m[0] == 'E' }) {
		c.s.old.keep(key, answer)
	}
	switch {
	case lie == HangAfter:
		return c.hang()
	case lie == ResetAfter:
		return false
	case lie == Truncated:
		_, _ = c.client.Write(answer[:len(answer)/2])
		return false
	case lie == Late:
		return c.s.wait(lateBy) && c.tell(answer, Truth)
	case isError && slices.Contains(fatal, code):
		return c.refuse(code)
	case isError:
		return c.fail(code)
	}
	return c.tell(answer, lie)
}

// ask sends a request to the real server and returns its answer, up to that it is
// ready for the next.
func (c *pgConn) ask(request []byte) (answer []byte, ok bool) {
	if _, err := c.server.Write(request); err != nil {
		return nil, false
	}
	for {
		m, err := message(c.server)
		if err != nil {
			return nil, false
		}
		answer = append(answer, m...)
		if len(answer) > maxAnswer {
			return nil, false
		}
		if m[0] == 'Z' {
			c.status = m[5]
			return answer, true
		}
	}
}

func split(answer []byte) [][]byte {
	var out [][]byte
	for len(answer) >= 5 {
		n := int(binary.BigEndian.Uint32(answer[1:])) + 1
		if n > len(answer) {
			break
		}
		out = append(out, answer[:n])
		answer = answer[n:]
	}
	return out
}

func simpleQuery(sql string) []byte {
	b, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil { // it is shorter than what it was made from
		panic(err)
	}
	return b
}

// fail says that a statement failed. A transaction that it was in is over.
func (c *pgConn) fail(code string) bool {
	status := c.status
	if status == 'T' {
		if _, ok := c.ask(simpleQuery("ROLLBACK")); !ok {
			return false
		}
		status, c.failed = 'E', true
	}
	return c.tell(append(sqlError("ERROR", code), ready(status)...), Truth)
}

// afterFailure answers in a transaction that the client takes for failed.
func (c *pgConn) afterFailure(sql string) bool {
	if !strings.Contains(sql, "ROLLBACK") && !strings.Contains(sql, "COMMIT") {
		return c.tell(append(sqlError("ERROR", "25P02"), ready('E')...), Truth)
	}
	c.failed = false
	return c.tell(append(complete("ROLLBACK"), ready('I')...), Truth)
}

func complete(tag string) []byte {
	b, err := (&pgproto3.CommandComplete{CommandTag: []byte(tag)}).Encode(nil)
	if err != nil { // nothing of it can fail
		panic(err)
	}
	return b
}

// parts are the statements of a simple query.
func parts(sql string) []string { return strings.Split(sql, "; ") }

// pretend answers as if all of a change was made and makes none of it, or the
// first half.
func (c *pgConn) pretend(sql string, lie Lie) bool {
	list := parts(sql)
	if lie == Partial {
		// Under no step's key: the ledger is about what staunch did.
		half := strings.TrimPrefix(strings.Join(list[:len(list)/2], "; "), comment(sql))
		if _, ok := c.ask(simpleQuery("/* " + HalfMark + " */ " + half + "; RESET ROLE")); !ok {
			return false
		}
	}
	var answer []byte
	for _, st := range list {
		answer = append(answer, complete(strings.ToUpper(strings.Fields(strings.TrimPrefix(st, comment(st)))[0]))...)
	}
	if strings.HasSuffix(sql, "COMMIT") && c.status == 'T' {
		if _, ok := c.ask(simpleQuery("ROLLBACK")); !ok {
			return false
		}
	}
	return c.tell(append(answer, ready(c.status)...), Truth)
}

// comment returns the comment that a statement begins with.
func comment(sql string) string {
	if !strings.HasPrefix(sql, "/*") {
		return ""
	}
	if i := strings.Index(sql, "*/"); i >= 0 {
		return sql[:i+2]
	}
	return sql
}
