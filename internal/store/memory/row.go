package memory

import (
	"bytes"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/store"
)

// row is one row, which never changes once it is in a table. It has a body, or the
// value that was put where the database keeps values.
type row struct {
	body []byte
	// value is a pointer to what the body decodes to, once somebody has asked.
	// Nobody else has what it points to.
	value atomic.Value
}

// nothing is the row of an index that says all in its key.
var nothing = new(row)

// rowOf makes a row of a value.
func rowOf[T any](t *tx, v T) (*row, error) {
	w := new(row)
	if t.values {
		w.value.Store(owned(v, true))
		return w, nil
	}
	var err error
	if w.body, err = store.Encode(v); err != nil {
		return nil, err
	}
	return w, store.CheckBody(w.body)
}

// peek returns what a row holds, which is not to be changed.
func peek[T any](w *row) (*T, error) {
	was := w.value.Load()
	if v, ok := was.(*T); ok {
		return v, nil
	}
	v := new(T)
	if err := store.Decode(w.body, v); err != nil {
		return nil, err
	}
	if was == nil {
		w.value.CompareAndSwap(nil, v)
	}
	return v, nil
}

// decode returns a copy of what a row holds.
func decode[T any](w *row) (T, error) {
	v, err := peek[T](w)
	if err != nil {
		var none T
		return none, err
	}
	if copierOf(reflect.TypeFor[T]()) == nil {
		return *v, nil
	}
	return *owned(*v, false), nil
}

// owned gives a value slices, maps and things pointed to of its own. Bytes, which
// nobody changes in place once they are stored, are its own only where asked.
func owned[T any](v T, bytes bool) *T {
	if own := copierOf(reflect.TypeFor[T]()); own != nil {
		own(reflect.ValueOf(&v).Elem(), bytes)
	}
	return &v
}

// copier gives a value that can be set slices, maps and things pointed to of its
// own.
type copier func(v reflect.Value, bytes bool)

// copiers has the copiers by type, nil where there is nothing to copy. It follows
// from the types alone.
var copiers sync.Map

func copierOf(t reflect.Type) copier {
	if c, ok := copiers.Load(t); ok {
		return c.(copier)
	}
	c := newCopier(t)
	copiers.Store(t, c)
	return c
}

func newCopier(t reflect.Type) copier {
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return func(v reflect.Value, own bool) {
				if own {
					v.SetBytes(bytes.Clone(v.Bytes()))
				}
			}
		}
		each := copierOf(t.Elem())
		return func(v reflect.Value, bytes bool) {
			if v.Len() == 0 {
				return
			}
			own := reflect.MakeSlice(t, v.Len(), v.Len())
			reflect.Copy(own, v)
			if each != nil {
				for i := range own.Len() {
					each(own.Index(i), bytes)
				}
			}
			v.Set(own)
		}
	case reflect.Pointer:
		target := copierOf(t.Elem())
		return func(v reflect.Value, bytes bool) {
			if v.IsNil() {
				return
			}
			own := reflect.New(t.Elem())
			own.Elem().Set(v.Elem())
			if target != nil {
				target(own.Elem(), bytes)
			}
			v.Set(own)
		}
	case reflect.Map:
		return mapCopier(t)
	case reflect.Struct:
		return structCopier(t)
	}
	return nil
}

func mapCopier(t reflect.Type) copier {
	if t == reflect.TypeFor[map[string]string]() {
		return func(v reflect.Value, bytes bool) {
			v.Set(reflect.ValueOf(maps.Clone(v.Interface().(map[string]string))))
		}
	}
	each := copierOf(t.Elem())
	return func(v reflect.Value, bytes bool) {
		if v.IsNil() {
			return
		}
		own := reflect.MakeMapWithSize(t, v.Len())
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(t.Elem()).Elem()
			e.Set(it.Value())
			if each != nil {
				each(e, bytes)
			}
			own.SetMapIndex(it.Key(), e)
		}
		v.Set(own)
	}
}

func structCopier(t reflect.Type) copier {
	type field struct {
		at  int
		own copier
	}
	var fields []field
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			if own := copierOf(f.Type); own != nil {
				fields = append(fields, field{i, own})
			}
		}
	}
	if fields == nil {
		return nil
	}
	return func(v reflect.Value, bytes bool) {
		for _, f := range fields {
			f.own(v.Field(f.at), bytes)
		}
	}
}
