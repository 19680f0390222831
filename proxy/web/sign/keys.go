package sign

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
)

// ErrKeys means that an answer may hold keys and cannot be read.
var ErrKeys = errors.New("sign: an answer with keys cannot be read")

// secretName is what the secret is called, in an element or a member.
const secretName = "SecretAccessKey"

// maxKeyDepth bounds how deep an answer's elements lie in one another.
const maxKeyDepth = 32

// Text is a part of an answer: what it says, and where it is written.
type Text struct {
	Value      []byte
	Start, End int
}

// Issued is an access key that an answer of STS or IAM hands out. Token is empty for a
// lasting one.
type Issued struct{ ID, Secret, Token Text }

// FindIssued returns the access keys of an answer, in XML or JSON, in the order of their
// ends. An id without a secret, as lists have them, is none.
func FindIssued(body []byte) ([]Issued, error) {
	if !bytes.Contains(body, []byte(secretName)) {
		return nil, nil
	}
	if text := bytes.TrimLeft(body, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return findJSON(body)
	}
	return findXML(body)
}

// place is where a text of that name belongs, nil for all others.
func (i *Issued) place(name string) *Text {
	switch name {
	case "AccessKeyId":
		return &i.ID
	case secretName:
		return &i.Secret
	case "SessionToken":
		return &i.Token
	}
	return nil
}

// add takes i when it is whole. Half a key, or one whose text stands twice, is an error.
func add(all []Issued, i *Issued) ([]Issued, error) {
	if i.Secret.Value == nil {
		return all, nil
	}
	if i.ID.Value == nil {
		return nil, ErrKeys
	}
	return append(all, *i), nil
}

func (t *Text) set(value []byte, start, end int) error {
	if t.Value != nil || len(value) == 0 || start < 0 || start > end {
		return ErrKeys
	}
	*t = Text{bytes.Clone(value), start, end}
	return nil
}

// findXML reads elements of text inside one element.
func findXML(body []byte) ([]Issued, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	var all []Issued
	var open []Issued // of each element that is not closed
	var text []byte
	start, name := 0, ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return all, nil
		}
		if err != nil || len(open) > maxKeyDepth {
			return nil, ErrKeys
		}
		switch token := token.(type) {
		case xml.StartElement:
			open = append(open, Issued{})
			name, text, start = token.Name.Local, nil, int(d.InputOffset())
		case xml.CharData:
			text = append(text, token...)
		case xml.EndElement:
			last := len(open) - 1
			if all, err = add(all, &open[last]); err != nil {
				return nil, err
			}
			open = open[:last]
			switch {
			case last > 0 && token.Name.Local == name:
				if place := open[last-1].place(name); place != nil {
					end := start + bytes.Index(body[start:], []byte("</"))
					if err := place.set(bytes.TrimSpace(text), start, end); err != nil {
						return nil, err
					}
				}
			case token.Name.Local == secretName:
				return nil, ErrKeys
			}
			name = ""
		default:
			text, name = nil, "" // a comment or an instruction splits no key
		}
	}
}

// level is an object or an array that is open.
type level struct {
	Issued
	object, value bool // value: a key was read, and its value comes
	key           string
}

// read takes the next token inside l, which raw ends in.
func (l *level) read(token json.Token, raw []byte, end int) error {
	if !l.object {
		return nil
	}
	if l.value = !l.value; l.value {
		l.key, _ = token.(string)
		return nil
	}
	text, ok := token.(string)
	place := l.place(l.key)
	switch {
	case ok && place != nil:
		return place.set([]byte(text), end-len(raw)+bytes.IndexByte(raw, '"')+1, end-1)
	case l.key == secretName:
		return ErrKeys
	}
	return nil
}

// findJSON reads members of one object.
func findJSON(body []byte) ([]Issued, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	var all []Issued
	var open []level
	for {
		before := int(d.InputOffset())
		token, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return all, nil
		}
		if err != nil || len(open) > maxKeyDepth {
			return nil, ErrKeys
		}
		last := len(open) - 1
		if token == json.Delim('}') || token == json.Delim(']') {
			if all, err = add(all, &open[last].Issued); err != nil {
				return nil, err
			}
			open = open[:last]
			continue
		}
		if last >= 0 {
			end := int(d.InputOffset())
			if err := open[last].read(token, body[before:end], end); err != nil {
				return nil, err
			}
		}
		if token == json.Delim('{') || token == json.Delim('[') {
			open = append(open, level{object: token == json.Delim('{')})
		}
	}
}
