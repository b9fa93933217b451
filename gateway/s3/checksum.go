package s3

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/dramnode/dramnode/gateway/object"
)

// Checksums of objects: x-amz-checksum-NAME and what belongs to it.

const checksumPrefix = "X-Amz-Checksum-"

// notSums are headers with the prefix of checksums that hold none.
var notSums = []string{"Algorithm", "Mode", "Type"}

// What x-amz-checksum-type says.
const (
	fullObject = "FULL_OBJECT"
	composite  = "COMPOSITE"
)

func typeOf(k object.SumKind) string {
	if k.Composite {
		return composite
	}
	return fullObject
}

func invalidHeader(name string) error {
	return errCode(invalidRequest, "Value for "+name+" header is invalid.")
}

// promisedSums names the checksums that headers hold, in lower case.
func (r *request) promisedSums() []string {
	var names []string
	for header := range r.Request.Header {
		if name, ok := strings.CutPrefix(header, checksumPrefix); ok && !slices.Contains(notSums, name) {
			names = append(names, strings.ToLower(name))
		}
	}
	return names
}

var (
	errManySums   = errCode(invalidRequest, "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
	errUnknownSum = errCode(invalidRequest, "The algorithm type you specified in x-amz-checksum- header is invalid.")
	errNoSum      = errCode(invalidRequest, "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.")
)

// promisedChecksum adds the check of the one checksum that there may be, in a header or behind the body.
func (r *request) promisedChecksum(c *checkedReader) error {
	names := r.promisedSums()
	trailer := r.header("X-Amz-Trailer")
	if trailer != "" {
		name, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(trailer)), strings.ToLower(checksumPrefix))
		if !ok {
			return errCode(invalidRequest, "The value specified in the x-amz-trailer header is not supported")
		}
		names = append(names, name)
	}
	announced := r.header("X-Amz-Sdk-Checksum-Algorithm")
	switch {
	case len(names) == 0 && announced != "":
		return errNoSum
	case len(names) == 0:
		return nil
	case len(names) > 1:
		return errManySums
	}
	name := names[0]
	sum, ok := object.NewHash(name)
	if !ok {
		return errUnknownSum
	}
	if announced != "" && !strings.EqualFold(announced, name) {
		return invalidHeader("x-amz-sdk-checksum-algorithm")
	}
	header := strings.ToLower(checksumPrefix) + name
	if trailer != "" {
		c.add(name, sum, func() ([]byte, error) { return c.trailing(header, sum.Size()) }, wrongSum(name))
		return nil
	}
	want, err := base64.StdEncoding.DecodeString(r.header(header))
	if err != nil || len(want) != sum.Size() {
		return invalidHeader(header)
	}
	c.add(name, sum, func() ([]byte, error) { return want, nil }, wrongSum(name))
	return nil
}

func wrongSum(algorithm string) error {
	return errCode(badDigest, "The "+strings.ToUpper(algorithm)+" you specified did not match the calculated checksum.")
}

// trailing is the checksum of so many bytes that came behind the body.
func (c *checkedReader) trailing(header string, size int) ([]byte, error) {
	text := ""
	if c.trailer != nil {
		text = c.trailer(header)
	}
	if text == "" {
		return nil, errCode(malformedTrailer, "The request contained trailing data that was not well-formed or did not conform to our published schema.")
	}
	want, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(want) != size {
		return nil, errCode(invalidRequest, "Value for "+header+" trailing header is invalid.")
	}
	return want, nil
}

// given is the algorithm of the checksum that the client promised; "" when it promised none.
func (c *checkedReader) given() string {
	for _, k := range c.checks {
		if k.algorithm != "" && k.want != nil {
			return k.algorithm
		}
	}
	return ""
}

// keep makes the checksum of this algorithm the first of sums.
func (c *checkedReader) keep(algorithm string) {
	at := slices.IndexFunc(c.checks, func(k check) bool { return k.algorithm == algorithm })
	if at < 0 {
		h, _ := object.NewHash(algorithm) // it was checked, or is ours
		c.add(algorithm, h, nil, nil)
		at = len(c.checks) - 1
	}
	c.checks[0], c.checks[at] = c.checks[at], c.checks[0]
}

// sums are the checksums of what was read.
func (c *checkedReader) sums() []object.Sum {
	var sums []object.Sum
	for _, k := range c.checks {
		if k.algorithm != "" {
			sums = append(sums, object.SumOf(k.algorithm, k))
		}
	}
	return sums
}

// knownAlgorithm reads the header that names an algorithm; "" without it.
func (r *request) knownAlgorithm() (string, error) {
	name := strings.ToLower(r.header(checksumPrefix + "Algorithm"))
	if _, ok := object.NewHash(name); name != "" && !ok {
		return "", errCode(invalidRequest, "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, MD5, SHA1, SHA256, SHA512, XXHASH128, XXHASH3, XXHASH64]")
	}
	return name, nil
}

// checksumType reads the header that says what a checksum is of; "" without it.
func (r *request) checksumType() (string, error) {
	switch t := strings.ToUpper(r.header(checksumPrefix + "Type")); t {
	case "", fullObject, composite:
		return t, nil
	}
	return "", invalidHeader("x-amz-checksum-type")
}

// sumKind is the checksum that a new upload is to get.
func (r *request) sumKind() (k object.SumKind, err error) {
	if k.Algorithm, err = r.knownAlgorithm(); err != nil {
		return k, err
	}
	t, err := r.checksumType()
	if err != nil {
		return k, err
	}
	if k.Algorithm == "" {
		if t != "" {
			err = errCode(invalidRequest, "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
		}
		return k, err
	}
	k.Composite = t == composite || t == "" && k.Algorithm != object.DefaultSum
	if !k.Valid(true) {
		return k, errCode(invalidRequest, "The "+t+" checksum type cannot be used with the "+k.Algorithm+" checksum algorithm.")
	}
	return k, nil
}

// ofPart makes c keep the checksum that a part of such an upload needs, and refuses another than the upload has.
func (c *checkedReader) ofPart(k object.SumKind) error {
	given := c.given()
	if k.Algorithm != "" && given != k.Algorithm && (given != "" || k.Composite) {
		if given == "" {
			given = "null"
		} else {
			given = strings.ToUpper(given)
		}
		return errCode(invalidRequest, "Checksum Type mismatch occurred, expected checksum Type: "+strings.ToUpper(k.Algorithm)+", actual checksum Type: "+given)
	}
	if k.Algorithm == "" {
		k.Algorithm = object.DefaultSum
	}
	c.keep(k.Algorithm)
	return nil
}

// tellSum puts a checksum into the headers of the answer.
func (r *request) tellSum(s object.Sum) {
	if s.Algorithm != "" {
		r.w.Header().Set(checksumPrefix+s.Algorithm, s.Text)
	}
}

// tellWholeSum is tellSum for a whole object.
func (r *request) tellWholeSum(s object.Sum) {
	if r.tellSum(s); s.Algorithm != "" {
		r.w.Header().Set(checksumPrefix+"Type", typeOf(s.SumKind))
	}
}

// tellReadSum puts the checksum of what is read into the headers of the answer: of the whole, or of a part whose writer
// gave one. There is none of a range.
func (r *request) tellReadSum(i object.Info) {
	part, err := r.part()
	switch {
	case r.header("Range") != "":
	case !r.has("partNumber") || i.Parts == nil:
		r.tellWholeSum(i.Sum)
	case err == nil && part <= len(i.PartSums):
		r.tellSum(i.PartSums[part-1])
		r.w.Header().Set(checksumPrefix+"Type", typeOf(i.Sum.SumKind))
	}
}

// wantsSum tells whether a read asks for the checksum.
func (r *request) wantsSum() bool {
	return strings.EqualFold(r.header(checksumPrefix+"Mode"), "ENABLED")
}

// A sumXML is an element such as ChecksumCRC32.
type sumXML struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
}

// sumsXML has the elements of a checksum, none if there is none.
func sumsXML(s object.Sum) []sumXML {
	if s.Algorithm == "" {
		return nil
	}
	return []sumXML{{xml.Name{Local: "Checksum" + strings.ToUpper(s.Algorithm)}, s.Text}}
}

// wholeSumXML says which checksum something has, beside the elements with its value.
type wholeSumXML struct {
	ChecksumAlgorithm string `xml:",omitempty"`
	ChecksumType      string `xml:",omitempty"`
}

func kindXML(k object.SumKind) wholeSumXML {
	if k.Algorithm == "" {
		return wholeSumXML{}
	}
	return wholeSumXML{strings.ToUpper(k.Algorithm), typeOf(k)}
}

// saidOfPart is the one checksum that a CompleteMultipartUpload may tell of a part; without Algorithm when it tells none.
func saidOfPart(elements []sumXML) (object.Sum, error) {
	var said []object.Sum
	for _, e := range elements {
		if name, ok := strings.CutPrefix(e.XMLName.Local, "Checksum"); ok {
			said = append(said, object.Sum{SumKind: object.SumKind{Algorithm: strings.ToLower(name)}, Text: e.Text})
		}
	}
	switch {
	case len(said) == 0:
		return object.Sum{}, nil
	case len(said) > 1 || !said[0].WellFormed():
		return object.Sum{}, errCode(invalidArgument, "Invalid Base64 or multiple checksums present in request")
	}
	return said[0], nil
}

// vetPart holds what a CompleteMultipartUpload says of a part against it.
func vetPart(k object.SumKind, p object.Part, said object.Sum) error {
	if said.Algorithm == "" {
		if k.Composite {
			return errCode(invalidRequest, fmt.Sprintf("The upload was created using a %s checksum. The complete request must include the checksum for each part. It was missing for part %d in the request.", k.Algorithm, p.Number))
		}
		return nil
	}
	at := slices.IndexFunc(p.Sums, func(s object.Sum) bool { return s.SumKind == said.SumKind })
	switch {
	case at < 0:
		return errCode(badDigest, fmt.Sprintf("The %s you specified for part %d did not match what we received.", said.Algorithm, p.Number))
	case p.Sums[at] != said:
		return fmt.Errorf("%w: part %d has another checksum", object.ErrPart, p.Number)
	}
	return nil
}

// saidOfWhole is what the headers of a CompleteMultipartUpload tell of the object's checksum.
func (r *request) saidOfWhole() (said string, names []string, err error) {
	if said, err = r.checksumType(); err != nil {
		return "", nil, err
	}
	if names = r.promisedSums(); len(names) > 1 {
		return "", nil, errManySums
	}
	return said, names, nil
}

// vetWhole holds the headers of a CompleteMultipartUpload against the object that is to be. What is said of the checksum
// of an upload that was begun without one is ignored, as Amazon does.
func (r *request) vetWhole(a object.Assembly) error {
	said, names, err := r.saidOfWhole()
	if err != nil {
		return err
	}
	if said != "" && said != typeOf(a.Kind) {
		return errCode(invalidRequest, "The upload was created using the "+typeOf(a.Kind)+" checksum mode. The complete request must use the same checksum mode.")
	}
	if len(names) == 0 || a.Kind.Algorithm == "" {
		return nil
	}
	whole := object.Sum{SumKind: object.SumKind{Algorithm: names[0], Composite: a.Kind.Composite}, Text: r.header(checksumPrefix + names[0])}
	switch {
	case !whole.WellFormed():
		return invalidHeader(strings.ToLower(checksumPrefix) + names[0])
	case !a.Sum.Is(whole):
		return wrongSum(names[0])
	}
	return nil
}

// headersOfBody is the request without the checksum headers that are about something else than its body.
func (r *request) headersOfBody() *http.Request {
	plain := r.Request.Clone(r.Context())
	plain.Body = r.Request.Body
	for name := range plain.Header {
		if strings.HasPrefix(name, checksumPrefix) {
			plain.Header.Del(name)
		}
	}
	return plain
}
