package ocsf

import (
	"maps"
	"strings"
	"testing"
	"testing/fstest"
)

// mini is a schema of our own, small enough to see all of it, that has every
// construct the compiler knows.
func mini() fstest.MapFS {
	files := map[string]string{
		"version.json":    `{"version": "2.1.0"}`,
		"categories.json": `{"attributes": {"shop": {"uid": 3, "caption": "Shop"}}}`,
		"dictionary.json": `{
			"attributes": {
				"activity_id": {"type": "integer_t", "sibling": "activity_name", "enum": {"0": {"caption": "Unknown"}, "99": {"caption": "Other"}}},
				"activity_name": {"type": "string_t"},
				"category_uid": {"type": "integer_t", "sibling": "category_name"},
				"category_name": {"type": "string_t"},
				"class_uid": {"type": "integer_t", "sibling": "class_name"},
				"class_name": {"type": "string_t"},
				"type_uid": {"type": "long_t", "sibling": "type_name"},
				"type_name": {"type": "string_t"},
				"metadata": {"type": "metadata"},
				"profiles": {"type": "string_t", "is_array": true},
				"extensions": {"type": "extension", "is_array": true},
				"extension": {"type": "extension"},
				"version": {"type": "string_t"},
				"unmapped": {"type": "object"},
				"observables": {"type": "observable", "is_array": true},
				"name": {"type": "string_t"},
				"uid": {"type": "string_t"},
				"value": {"type": "string_t"},
				"type": {"type": "string_t"},
				"type_id": {"type": "integer_t", "sibling": "type", "enum": {"0": {"caption": "Unknown"}, "99": {"caption": "Other"}}},
				"item": {"type": "item"},
				"items": {"type": "item", "is_array": true},
				"gift": {"type": "string_t", "caption": "Gift", "observable": 7},
				"kind": {"type": "string_t", "enum": {"big": {"caption": "Big"}, "small": {"caption": "Small"}}},
				"color_ids": {"type": "integer_t", "is_array": true, "sibling": "colors", "enum": {"1": {"caption": "Red"}, "2": {"caption": "Blue"}, "99": {"caption": "Other"}}},
				"colors": {"type": "string_t", "is_array": true},
				"grade": {"type": "grade_t"},
				"steps": {"type": "steps_t"},
				"word": {"type": "word_t"},
				"yes": {"type": "yes_t"},
				"weight": {"type": "weight_t"},
				"flag": {"type": "boolean_t"},
				"at": {"type": "timestamp_t"},
				"ip": {"type": "ip_t"},
				"extra": {"type": "json_t"},
				"odd": {"type": "string_t", "$include": "enum/odd.json"}
			},
			"types": {"attributes": {
				"boolean_t": {"caption": "Boolean", "values": [false, true]},
				"integer_t": {"caption": "Integer"},
				"long_t": {"caption": "Long"},
				"float_t": {"caption": "Float"},
				"string_t": {"caption": "String"},
				"json_t": {"caption": "JSON"},
				"timestamp_t": {"caption": "Timestamp", "type": "long_t"},
				"datetime_t": {"caption": "Datetime", "type": "string_t", "regex": "^\\d{4}-\\d{2}-\\d{2}T.*Z$"},
				"ip_t": {"caption": "IP", "type": "string_t", "observable": 2, "max_len": 40},
				"grade_t": {"caption": "Grade", "type": "integer_t", "range": [1, 6]},
				"steps_t": {"caption": "Steps", "type": "grade_t"},
				"word_t": {"caption": "Word", "type": "string_t", "regex": "^[a-z]+$", "max_len": 5},
				"yes_t": {"caption": "Yes", "type": "boolean_t", "values": [true]},
				"weight_t": {"caption": "Weight", "type": "float_t", "range": [0, 10]}
			}}
		}`,
		"enum/odd.json": `{"enum": {"one": {"caption": "One"}, "three": {"caption": "Three"}}}`,
		"events/base_event.json": `{"name": "base_event", "caption": "Base Event", "category": "other", "profiles": ["wrapped"],
			"attributes": {
				"$include": ["profiles/wrapped.json"],
				"activity_id": {"requirement": "required"}, "activity_name": {"requirement": "optional"},
				"category_uid": {"requirement": "required"}, "category_name": {"requirement": "optional"},
				"class_uid": {"requirement": "required"}, "class_name": {"requirement": "optional"},
				"type_uid": {"requirement": "required"}, "type_name": {"requirement": "optional"},
				"metadata": {"requirement": "required"}, "observables": {"requirement": "optional"},
				"unmapped": {"requirement": "optional"}
			}}`,
		// Hidden: it has no uid.
		"events/shop/shop.json": `{"name": "shop", "caption": "Shop", "extends": "base_event", "category": "shop",
			"constraints": {"at_least_one": ["item", "items"]},
			"attributes": {
				"activity_id": {"enum": {"1": {"caption": "Sell"}}},
				"item": {"requirement": "optional"}, "items": {"requirement": "optional"}
			}}`,
		"events/shop/sale.json": `{"name": "sale", "caption": "Sale", "uid": 4, "extends": "shop", "profiles": ["signed"],
			"attributes": {
				"$include": "profiles/signed.json",
				"activity_id": {"enum": {"2": {"caption": "Return"}}},
				"kind": {"requirement": "optional"}, "odd": {"requirement": "optional"},
				"color_ids": {"requirement": "optional"}, "colors": {"requirement": "optional"},
				"grade": {"requirement": "optional"}, "steps": {"requirement": "optional"}, "word": {"requirement": "optional"},
				"yes": {"requirement": "optional"}, "weight": {"requirement": "optional"}, "flag": {"requirement": "optional"},
				"at": {"requirement": "optional"}, "ip": {"requirement": "optional"}, "extra": {"requirement": "optional"}
			}}`,
		// The child replaces the parent's constraint and frees gift of its profile.
		"events/shop/refund.json": `{"name": "refund", "caption": "Refund", "uid": 5, "extends": "shop",
			"constraints": {"just_one": ["item.uid", "gift"]},
			"attributes": {"gift": {"requirement": "optional", "profile": null}}}`,
		"objects/object.json":  `{"name": "object", "caption": "Object", "attributes": {}}`,
		"objects/_entity.json": `{"name": "_entity", "caption": "Entity", "extends": "object", "constraints": {"at_least_one": ["name", "uid"]}, "attributes": {"name": {"requirement": "recommended"}, "uid": {"requirement": "recommended"}}}`,
		"objects/item.json": `{"name": "item", "caption": "Item", "extends": "_entity", "observable": 8, "profiles": ["wrapped"], "attributes": {
				"$include": ["profiles/wrapped.json"],
				"type_id": {"requirement": "required", "enum": {"1": {"caption": "Book"}}}, "type": {"requirement": "optional"},
				"at": {"requirement": "optional"}, "item": {"requirement": "optional"}
			}}`,
		"objects/extension.json": `{"name": "extension", "caption": "Extension", "extends": "_entity", "attributes": {}}`,
		"objects/metadata.json": `{"name": "metadata", "caption": "Metadata", "extends": "object", "attributes": {
				"version": {"requirement": "required"}, "profiles": {"requirement": "optional"},
				"extension": {"requirement": "optional"}, "extensions": {"requirement": "optional"}
			}}`,
		"objects/observable.json": `{"name": "observable", "caption": "Observable", "extends": "object", "attributes": {
				"name": {"requirement": "optional"}, "type_id": {"requirement": "required"}, "type": {"requirement": "optional"}, "value": {"requirement": "optional"}
			}}`,
		"profiles/wrapped.json":  `{"name": "wrapped", "meta": "profile", "attributes": {"gift": {"requirement": "optional"}}}`,
		"profiles/signed.json":   `{"name": "signed", "meta": "profile", "annotations": {"requirement": "required"}, "attributes": {"gift": {"requirement": "required"}, "value": {}}}`,
		"profiles/datetime.json": `{"name": "datetime", "meta": "profile", "attributes": {}}`,
		"profiles/idle.json":     `{"name": "idle", "meta": "profile", "attributes": {}}`,

		"extensions/farm/extension.json":   `{"name": "farm", "uid": 9}`,
		"extensions/farm/dictionary.json":  `{"attributes": {"crop": {"type": "crop"}, "soil": {"type": "soil_t"}}, "types": {"attributes": {"soil_t": {"caption": "Soil", "type": "string_t", "regex": "^(clay|sand)$"}}}}`,
		"extensions/farm/events/till.json": `{"name": "till", "caption": "Till", "uid": 1, "extends": "sale", "attributes": {"soil": {"requirement": "required"}}}`,
		"extensions/farm/objects/crop.json": `{"name": "crop", "caption": "Crop", "extends": "_entity", "attributes": {
				"$include": ["profiles/grown.json"], "name": {"observable": 11}
			}, "profiles": ["grown"]}`,
		"extensions/farm/objects/item.json":   `{"caption": "Farm Item", "extends": "item", "attributes": {"crop": {"requirement": "optional"}}, "constraints": {"at_least_one": ["name", "uid", "crop"]}}`,
		"extensions/farm/profiles/grown.json": `{"name": "grown", "meta": "profile", "attributes": {"grade": {"requirement": "required"}}}`,
		"extensions/notes.txt":                "not an extension",
	}
	fsys := fstest.MapFS{}
	for name, data := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return fsys
}

func loadMini(tb testing.TB) *Schema {
	tb.Helper()
	s, err := loadFS(mini())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// violated renders violations as "path rule" lines, the part that tests fix.
func violated(vs []Violation) string {
	lines := make([]string, len(vs))
	for i, v := range vs {
		lines[i] = v.Path + " " + v.Rule
	}
	return strings.Join(lines, "; ")
}

func TestMini(t *testing.T) {
	s := loadMini(t)
	if s.Version() != "2.1.0" {
		t.Errorf("version %q", s.Version())
	}
	sale := func(more string) string {
		return `{"class_uid": 3004, "category_uid": 3, "activity_id": 2, "type_uid": 300402, "metadata": {"version": "2.1.0"}, "item": {"uid": "i", "type_id": 1}` + more + `}`
	}
	applied := func(meta, more string) string {
		return `{"class_uid": 3004, "category_uid": 3, "activity_id": 2, "type_uid": 300402, "metadata": {"version": "2.1.0", ` + meta + `}` + more + `}`
	}
	refund := func(more string) string {
		return `{"class_uid": 3005, "category_uid": 3, "activity_id": 1, "type_uid": 300501, "metadata": {"version": "2.1.0"}` + more + `}`
	}
	till := func(meta, more string) string {
		return `{"class_uid": 903001, "category_uid": 3, "activity_id": 1, "type_uid": 90300101, "metadata": {"version": "2.1.0"` + meta + `}` + more + `}`
	}
	const item = `, "item": {"uid": "i", "type_id": 1}`
	const farm = `, "extensions": [{"name": "farm"}]`
	tests := []struct{ name, event, want string }{
		{"valid", sale(``), ""},
		{"parent's activity", strings.NewReplacer(`"activity_id": 2`, `"activity_id": 1`, "300402", "300401").Replace(sale(``)), ""},
		{"dictionary's activity", strings.NewReplacer(`"activity_id": 2`, `"activity_id": 0`, "300402", "300400").Replace(sale(``)), ""},
		{"base event of no category", `{"class_uid": 0, "category_uid": 0, "activity_id": 99, "activity_name": "x", "type_uid": 99, "type_name": "Base Event: x", "metadata": {"version": "1.0.0"}, "unmapped": {"a": {"b": [null]}}}`, ""},
		{"class that only serves to be extended", `{"class_uid": 3000}`, "class_uid class"},
		{"parent's constraint", applied(`"profiles": []`, ``), " constraint"},
		{"constraint met by null", applied(`"profiles": []`, `, "item": null`), "item type;  constraint"},
		{"second of the constraint", applied(`"profiles": []`, `, "items": [{"name": "n", "type_id": 1}]`), ""},
		{"object's parent's constraint", applied(`"profiles": []`, `, "item": {"type_id": 1}`), "item constraint"},
		{"nested object", sale(`, "items": [{"uid": "a", "type_id": 1, "item": {"type_id": 5}}]`), "items[0].item.type_id enum; items[0].item constraint"},
		{"replaced constraint, none", refund(``), " constraint"},
		{"replaced constraint, path into object", refund(item), ""},
		{"replaced constraint, freed attribute", refund(`, "gift": "g"`), ""},
		{"replaced constraint, both", refund(item + `, "gift": "g"`), " constraint"},

		{"profile's attribute without it", sale(`, "gift": "g"`), "gift profile"},
		{"profile's attribute of an object without it", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 1, "gift": "g"}`), "item.gift profile"},
		{"profile reaches objects", applied(`"profiles": ["wrapped"]`, `, "gift": "g", "item": {"uid": "i", "type_id": 1, "gift": "g"}`), ""},
		{"two profiles, the stricter counts", applied(`"profiles": ["wrapped"]`, item), "gift required"},
		{"annotations of a profile", applied(`"profiles": ["signed"]`, item+`, "gift": "g"`), "value required"},
		{"profile of a subclass", strings.Replace(refund(item), `"version": "2.1.0"`, `"version": "2.1.0", "profiles": ["signed"]`, 1), "metadata.profiles[0] profile"},
		{"profile nobody takes", applied(`"profiles": ["idle"]`, item), "metadata.profiles[0] profile"},
		{"profile twice", applied(`"profiles": ["datetime", "datetime"]`, item), "metadata.profiles[1] profile"},
		{"unknown profile", applied(`"profiles": ["nope"]`, item), "metadata.profiles[0] profile"},
		{"profile of no string", applied(`"profiles": [1]`, item), "metadata.profiles[0] type"},
		{"datetime without profile", sale(`, "at": 1760000000000, "at_dt": "2025-10-09T08:53:20Z"`), "at_dt profile"},
		{"datetime", applied(`"profiles": ["datetime"]`, `, "at_dt": "2025-10-09T08:53:20Z", "item": {"uid": "i", "type_id": 1, "at_dt": "today"}`), "item.at_dt format"},

		{"string enum", sale(`, "kind": "huge", "odd": "two"`), "kind enum; odd enum"},
		{"string enum met", sale(`, "kind": "big", "odd": "three"`), ""},
		{"array enum", sale(`, "color_ids": [1, 3]`), "color_ids[1] enum"},
		{"array labels", sale(`, "color_ids": [1, 2, 99], "colors": ["Red", "Blue", "teal"]`), ""},
		{"array labels wrong and missing", sale(`, "color_ids": [1, 2], "colors": ["Blue"]`), "colors[0] sibling; colors[1] sibling"},
		{"array other without label", sale(`, "color_ids": [99]`), "colors[0] sibling"},
		{"enum of another type", sale(`, "color_ids": ["1"]`), "color_ids[0] type"},
		{"label of class", sale(`, "class_name": "Sale", "category_name": "Shop", "type_name": "Sale: Return", "activity_name": "Return"`), ""},
		{"labels wrong", sale(`, "class_name": "sale", "category_name": "x", "type_name": "y", "activity_name": "z"`), "activity_name sibling; category_name sibling; class_name sibling; type_name sibling"},
		{"other without label", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 99}`), "item.type sibling"},
		{"other with blank label", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 99, "type": " "}`), "item.type sibling"},
		{"other with label", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 99, "type": "map"}`), ""},

		{"range", sale(`, "grade": 7`), "grade range"},
		{"range of the supertype", sale(`, "steps": 0`), "steps range"},
		{"float range", sale(`, "weight": 10.5`), "weight range"},
		{"floats", sale(`, "weight": 3`), ""},
		{"float out of bounds", sale(`, "weight": 1e999`), "weight type"},
		{"length and form", sale(`, "word": "Abcdef"`), "word length; word format"},
		{"values", sale(`, "yes": false, "flag": false`), "yes values"},
		{"wrong kinds", sale(`, "grade": "1", "weight": "1", "word": 1, "flag": 1, "items": {}, "at": 1.5, "extra": null`), "at type; flag type; grade type; items type; weight type; word type"},
		{"object of a string", applied(`"profiles": []`, `, "items": ["x"]`), "items[0] type"},
		{"address the pattern lets pass", sale(`, "ip": "1.2.3.400"`), "ip format"},
		{"seconds", sale(`, "at": 1760000000`), "at timestamp"},
		{"microseconds", sale(`, "at": 1760000000000000`), "at timestamp"},
		{"the epoch itself", sale(`, "at": 0`), ""},

		{"unknown", sale(`, "nope": 1`), "nope unknown"},
		{"unknown in an object", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 1, "unmapped": {}}`), "item.unmapped unknown"},
		{"required", `{"class_uid": 3004, "item": {"name": "n"}}`, "activity_id required; category_uid required; item.type_id required; metadata required; type_uid required"},
		{"category", strings.Replace(sale(``), `"category_uid": 3`, `"category_uid": 0`, 1), "category_uid category"},
		{"type_uid", strings.Replace(sale(``), "300402", "300499", 1), "type_uid type_uid"},
		{"activity", strings.NewReplacer(`"activity_id": 2`, `"activity_id": 7`, "300402", "300407").Replace(sale(``)), "activity_id enum"},
		{"newer version", strings.Replace(sale(``), "2.1.0", "2.1.1", 1), "metadata.version version"},
		{"short version", strings.Replace(sale(``), "2.1.0", "2.1", 1), "metadata.version version"},
		{"ancient version", strings.Replace(sale(``), "2.1.0", "1.0.0-rc.2", 1), "metadata.version version"},

		{"observables", sale(`, "observables": [{"name": "item.uid", "type_id": 7, "type": "Gift", "value": "i"}, {"name": "item", "type_id": 8, "type": "Item", "value": "?"}, {"type_id": 2}]`), ""},
		{"observable in arrays", applied(`"profiles": []`, `, "items": [{"uid": "a", "type_id": 1}, {"uid": "b", "type_id": 1}], "observables": [{"name": "items.uid", "type_id": 0, "value": "b"}, {"name": "items[].uid", "type_id": 0, "value": "a"}, {"name": "items[1].uid", "type_id": 0, "value": "b"}]`), ""},
		{"observable of another element", applied(`"profiles": []`, `, "items": [{"uid": "a", "type_id": 1}], "observables": [{"name": "items[0].uid", "type_id": 0, "value": "b"}, {"name": "items[1].uid", "type_id": 0}]`), "observables[0].value observable; observables[1].name observable"},
		{"observable undefined, absent, inside JSON", sale(`, "extra": {"a": {"b": 1}}, "observables": [{"name": "item.nope", "type_id": 0}, {"name": "item.at", "type_id": 0}, {"name": "extra.a.b", "type_id": 0, "value": "1"}, {"name": "gift", "type_id": 0}, {"name": "item.uid.x", "type_id": 0}]`),
			"observables[0].name observable; observables[1].name observable; observables[3].name observable; observables[4].name observable"},
		{"observable type unknown", sale(`, "observables": [{"type_id": 11}]`), "observables[0].type_id enum"},

		{"extension's class", till(farm, item+`, "soil": "clay"`), ""},
		{"extension's class, unlisted", till(``, item+`, "soil": "mud"`), "class_uid extension; soil format"},
		{"extension's attribute", till(farm, `, "soil": "sand", "item": {"type_id": 1, "crop": {"name": "rye"}}`), ""},
		{"extension's attribute, unlisted", applied(`"profiles": []`, `, "item": {"uid": "i", "type_id": 1, "crop": {"name": "rye"}}`), "item.crop extension"},
		{"extension's constraint, unlisted", applied(`"profiles": []`, `, "item": {"type_id": 1, "crop": {"name": "rye"}}`), "item.crop extension; item constraint"},
		{"extension patches core classes", strings.Replace(sale(``), `"version": "2.1.0"`, `"version": "2.1.0", "extension": {"name": "farm"}`, 1), ""},
		{"extension's profile", till(farm+`, "profiles": ["farm/grown"]`, `, "soil": "sand", "item": {"type_id": 1, "crop": {"name": "rye"}}`), "item.crop.grade required"},
		{"extension's profile, unlisted", applied(`"profiles": ["farm/grown"]`, item), "metadata.profiles[0] extension"},
		{"extension's profile without its prefix", till(farm+`, "profiles": ["grown"]`, item+`, "soil": "sand"`), "metadata.profiles[0] profile"},
		{"extension's observable type", till(farm, item+`, "soil": "sand", "observables": [{"type_id": 11, "type": "Crop Object: name"}]`), ""},
		{"unknown extension", till(`, "extensions": [{"name": "sea"}, {"name": "farm"}, {"uid": "x"}]`, item+`, "soil": "sand"`), "metadata.extensions[0].name extension"},

		{"no object", `[]`, " json"},
		{"no JSON", `{"a": `, "a json"},
		{"more JSON", sale(``) + `{}`, " json"},
		{"key twice", sale(`, "unmapped": {"a": [{"b": 1, "b": 1}]}`), "unmapped.a[0].b json"},
		{"invalid UTF-8", sale(`, "unmapped": {"a": "` + "\xff" + `"}`), " json"},
		{"too deep", sale(`, "unmapped": {"a": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`), "unmapped.a" + strings.Repeat("[0]", 99) + " json"},
		{"too large", strings.Repeat(" ", maxEvent+1), " json"},
		{"no class", `{}`, "class_uid class"},
		{"class of a string", `{"class_uid": "3004"}`, "class_uid class"},
		{"class as a float", `{"class_uid": 3004.0}`, "class_uid class"},
		{"unknown class", `{"class_uid": 3999}`, "class_uid class"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vs := s.Validate([]byte(tt.event))
			if got := violated(vs); got != tt.want {
				t.Errorf("violations\n got %s\nwant %s\nevent %.500s\n%v", got, tt.want, tt.event, vs)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	tests := []struct{ name, file, old, repl, want string }{
		{"no version", "version.json", `2.1.0`, `2`, "not a semantic version"},
		{"broken file", "dictionary.json", `{`, `[`, "decoding dictionary.json"},
		{"attribute outside the dictionary", "events/shop/sale.json", `"word"`, `"wort"`, "class sale: attribute wort: not in the dictionary"},
		{"undefined type", "dictionary.json", `"type": "word_t"`, `"type": "wort_t"`, `undefined type "wort_t"`},
		{"dictionary attribute of no type", "dictionary.json", `"type": "word_t"`, `"sibling": "x"`, "attribute word: no type"},
		{"undefined supertype", "dictionary.json", `"caption": "Weight", "type": "float_t"`, `"caption": "Weight", "type": "x_t"`, `undefined supertype "x_t"`},
		{"bad pattern", "dictionary.json", `^[a-z]+$`, `(`, "compiling its pattern"},
		{"bad range", "dictionary.json", `[1, 6]`, `[1]`, "range of 1 bounds"},
		{"types in a circle", "dictionary.json", `"caption": "Grade", "type": "integer_t"`, `"caption": "Grade", "type": "steps_t"`, "supertypes"},
		{"unknown primitive", "dictionary.json", `"caption": "Word", "type": "string_t"`, `"caption": "Word"`, `unknown primitive "word_t"`},
		{"undefined parent", "events/shop/sale.json", `"extends": "shop"`, `"extends": "store"`, `extends undefined "store"`},
		{"ancestors in a circle", "events/shop/shop.json", `"extends": "base_event"`, `"extends": "sale"`, "ancestors"},
		{"undefined category", "events/shop/shop.json", `"category": "shop"`, `"category": "x"`, `undefined category "x"`},
		{"same uid twice", "events/shop/refund.json", `"uid": 5`, `"uid": 4`, "uid 3004"},
		{"same name twice", "events/shop/refund.json", `"name": "refund"`, `"name": "sale"`, "defined twice"},
		{"no name", "objects/object.json", `"name": "object", `, ``, "has no name"},
		{"core patch", "events/shop/sale.json", `"name": "sale"`, `"name": "shop"`, "cannot patch"},
		{"missing include", "events/shop/sale.json", `profiles/signed.json`, `profiles/x.json`, "including profiles/x.json"},
		{"include from outside", "events/shop/sale.json", `profiles/signed.json`, `../x.json`, "outside the schema"},
		{"include of no name", "events/shop/sale.json", `"$include": "profiles/signed.json"`, `"$include": 1`, "want a string"},
		{"nested include", "enum/odd.json", `{"enum"`, `{"$include": "enum/odd.json", "enum"`, "nested include"},
		{"undefined profile", "events/shop/refund.json", `"profile": null`, `"profile": "x"`, `undefined profile "x"`},
		{"unknown requirement", "events/shop/sale.json", `"grade": {"requirement": "optional"}`, `"grade": {"requirement": "maybe"}`, `unknown requirement "maybe"`},
		{"unknown constraint", "events/shop/refund.json", `just_one`, `at_most_one`, "unknown constraint"},
		{"constraint nothing can meet", "events/shop/refund.json", `["item.uid", "gift"]`, `["item.x", "y"]`, "names no attribute"},
		{"activity of no number", "events/shop/sale.json", `"2": {`, `"two": {`, "is no number"},
		{"observable twice", "objects/item.json", `"observable": 8`, `"observable": 7`, "observable type 7"},
		{"type only to be extended", "dictionary.json", `"item": {"type": "item"}`, `"item": {"type": "_entity"}`, "only serves to be extended"},
		{"patch of nothing", "extensions/farm/objects/item.json", `"extends": "item"`, `"extends": "x"`, `patch of undefined "x"`},
		{"profile that extends", "profiles/idle.json", `"meta"`, `"extends": "x", "meta"`, "profiles that extend"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fsys := maps.Clone(mini())
			data := string(fsys[tt.file].Data)
			changed := strings.Replace(data, tt.old, tt.repl, 1)
			if changed == data {
				t.Fatalf("%s does not contain %s", tt.file, tt.old)
			}
			fsys[tt.file] = &fstest.MapFile{Data: []byte(changed)}
			_, err := loadFS(fsys)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	for _, file := range []string{"version.json", "dictionary.json", "categories.json", "events/base_event.json"} {
		t.Run("without "+file, func(t *testing.T) {
			fsys := mini()
			delete(fsys, file)
			if _, err := loadFS(fsys); err == nil {
				t.Error("loaded")
			}
		})
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "loading OCSF schema from") {
		t.Errorf("empty directory: %v", err)
	}
}

func FuzzValidate(f *testing.F) {
	s, err := loadFS(mini())
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"class_uid": 3004, "item": {"uid": "i", "type_id": 99}, "observables": [{"name": "items[0].uid"}]}`))
	f.Add([]byte(`{"class_uid": 903001, "metadata": {"version": "2.1.0", "profiles": ["farm/grown"], "extensions": [{"name": "farm"}]}, "color_ids": [1, 99], "colors": []}`))
	f.Add([]byte(`{"class_uid": 3005, "gift": null, "item": {"item": {"item": {}}}}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		a, b := s.Validate(event), s.Validate(event)
		if violated(a) != violated(b) {
			t.Fatalf("two answers for %q:\n%v\n%v", event, a, b)
		}
	})
}
