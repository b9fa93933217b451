package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signatures of version 4, as "Authenticating Requests: AWS Signature Version 4" of the S3 API reference says.

const (
	algorithm       = "AWS4-HMAC-SHA256"
	amzDateLayout   = "20060102T150405Z"
	maxSkew         = 15 * time.Minute
	maxPresigned    = 7 * 24 * time.Hour
	unsignedPayload = "UNSIGNED-PAYLOAD"
	emptyHash       = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// A signer is who signed a request, and what the signatures of its chunks follow from.
type signer struct {
	key  []byte // of the day, the region and the service
	date string
	sc   string // scope
	seed string // signature of the request
}

// A claim is what a request says of its signature.
type claim struct {
	access, day, region, service, terminator string
	signed                                   []string // headers, lower case, sorted
	signature                                string
	presigned                                bool
}

func (c claim) scope() string {
	return strings.Join([]string{c.day, c.region, c.service, c.terminator}, "/")
}

// authenticate returns who signed a request; nil when nobody has to.
func (f *face) authenticate(r *http.Request, query map[string][]string, now time.Time) (*signer, error) {
	if len(f.cfg.Keys) == 0 {
		return nil, nil
	}
	c, err := claimOf(r, query)
	if err != nil {
		return nil, err
	}
	if c == nil {
		if f.cfg.AnonymousRead && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			return nil, nil
		}
		return nil, errCode(accessDenied, "Access Denied.")
	}
	secret, ok := f.cfg.Keys[c.access]
	if !ok {
		return nil, errCode(invalidAccessKey, "The AWS Access Key Id you provided does not exist in our records.")
	}
	date, err := c.date(r, query, now)
	if err != nil {
		return nil, err
	}
	headers, err := c.headers(r)
	if err != nil {
		return nil, err
	}
	payload := unsignedPayload
	if !c.presigned {
		if payload = r.Header.Get("X-Amz-Content-Sha256"); payload == "" {
			return nil, errCode(invalidRequest, "Missing required header for this request: x-amz-content-sha256")
		}
		if err := checkContentHash(payload); err != nil {
			return nil, err
		}
	}
	text := strings.Join([]string{r.Method, escape(r.URL.Path, true), canonicalQuery(query), headers, strings.Join(c.signed, ";"), payload}, "\n")
	s := &signer{key: dayKey(secret, *c), date: date, sc: c.scope()}
	s.seed = s.sign(algorithm, digest(text))
	if subtle.ConstantTimeCompare([]byte(s.seed), []byte(c.signature)) != 1 {
		return nil, errCode(signatureMismatch, "The request signature we calculated does not match the signature you provided. Check your key and signing method.")
	}
	return s, nil
}

// checkContentHash refuses what x-amz-content-sha256 cannot be.
func checkContentHash(value string) error {
	switch value {
	case unsignedPayload, streamSigned, streamSignedTrailer, streamUnsignedTrailer:
		return nil
	}
	if sum, err := hex.DecodeString(value); err != nil || len(sum) != sha256.Size {
		return errCode(invalidArgument, "x-amz-content-sha256 must be "+strings.Join([]string{unsignedPayload, streamUnsignedTrailer, streamSigned, streamSignedTrailer}, ", ")+" or a valid sha256 value.")
	}
	return nil
}

// claimOf reads the Authorization header, or the parameters of a presigned URL; nil when there is neither.
func claimOf(r *http.Request, query map[string][]string) (*claim, error) {
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return presignedClaim(query)
	}
	scheme, fields, ok := strings.Cut(auth, " ")
	switch {
	case !ok:
		return nil, errCode(invalidArgument, "Authorization header is invalid -- one and only one ' ' (space) required.")
	case scheme == "AWS":
		return nil, errVersion
	case scheme != algorithm:
		return nil, errCode(invalidArgument, "Unsupported Authorization Type")
	}
	values := map[string]string{}
	for field := range strings.SplitSeq(fields, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok {
			return nil, malformed(false, "the authorization component %q is malformed.", name)
		}
		values[name] = value
	}
	if len(values) != 3 {
		return nil, malformed(false, "the authorization header requires three components: Credential, SignedHeaders, and Signature.")
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if values[name] == "" {
			return nil, malformed(false, "missing %s.", name)
		}
	}
	return parseClaim(values["Credential"], values["SignedHeaders"], values["Signature"], false)
}

// presignedClaim is claimOf for a request without the header.
func presignedClaim(query map[string][]string) (*claim, error) {
	missing := 0
	required := []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Expires"}
	for _, name := range required {
		if first(query[name]) == "" {
			missing++
		}
	}
	_, v2 := query["Signature"]
	switch {
	case missing == len(required) && v2:
		return nil, errVersion
	case missing == len(required):
		return nil, nil
	case missing > 0:
		return nil, errCode(malformedQueryAuth, "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
	case first(query["X-Amz-Algorithm"]) != algorithm:
		return nil, errCode(malformedQueryAuth, `X-Amz-Algorithm only supports "`+algorithm+`"`)
	}
	return parseClaim(first(query["X-Amz-Credential"]), first(query["X-Amz-SignedHeaders"]), first(query["X-Amz-Signature"]), true)
}

var errVersion = errCode(invalidRequest, "The authorization mechanism you have provided is not supported. Please use "+algorithm+".")

// malformed says what is wrong with a claim.
func malformed(presigned bool, format string, values ...any) error {
	if presigned {
		return errCode(malformedQueryAuth, "Error parsing the X-Amz-Credential parameter; "+fmt.Sprintf(format, values...))
	}
	return errCode(malformedAuth, "The authorization header is malformed; "+fmt.Sprintf(format, values...))
}

func parseClaim(credential, signed, signature string, presigned bool) (*claim, error) {
	parts := strings.Split(credential, "/")
	at := len(parts) - 4 // the key itself may hold slashes
	if at < 1 {
		return nil, malformed(presigned, `the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`)
	}
	c := &claim{
		access: strings.Join(parts[:at], "/"), day: parts[at], region: parts[at+1], service: parts[at+2], terminator: parts[at+3],
		signed: strings.Split(signed, ";"), signature: signature, presigned: presigned,
	}
	if c.service != "s3" {
		return nil, malformed(presigned, `incorrect service %q. This endpoint belongs to "s3".`, c.service)
	}
	if c.terminator != "aws4_request" {
		return nil, malformed(presigned, `incorrect terminal %q. This endpoint uses "aws4_request".`, c.terminator)
	}
	if _, err := time.Parse("20060102", c.day); err != nil {
		return nil, malformed(presigned, `incorrect date format %q. This date in the credential must be in the format "yyyyMMdd".`, c.day)
	}
	if !slices.IsSorted(c.signed) || !slices.Contains(c.signed, "host") {
		return nil, malformed(presigned, "SignedHeaders must be sorted and contain host.")
	}
	return c, nil
}

// date checks when the request was signed and returns it as it stands in the text that was signed.
func (c *claim) date(r *http.Request, query map[string][]string, now time.Time) (string, error) {
	date := r.Header.Get("X-Amz-Date")
	if c.presigned {
		date = first(query["X-Amz-Date"])
	} else if date == "" {
		if at, err := http.ParseTime(r.Header.Get("Date")); err == nil {
			date = at.UTC().Format(amzDateLayout)
		}
	}
	at, err := time.Parse(amzDateLayout, date)
	switch {
	case err != nil && c.presigned:
		return "", errCode(malformedQueryAuth, `X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`)
	case err != nil:
		return "", errCode(accessDenied, "AWS authentication requires a valid Date or x-amz-date header.")
	case !strings.HasPrefix(date, c.day) && c.presigned:
		return "", errCode(malformedQueryAuth, fmt.Sprintf("Invalid credential date %q. This date is not the same as X-Amz-Date: %q.", c.day, date[:len(c.day)]))
	case !strings.HasPrefix(date, c.day):
		return "", malformed(false, "Invalid credential date. Date is not the same as X-Amz-Date.")
	}
	if !c.presigned {
		if skew := now.Sub(at); skew > maxSkew || skew < -maxSkew {
			return "", errCode(requestTimeTooSkewed, "The difference between the request time and the current time is too large.")
		}
		return date, nil
	}
	return date, checkExpiry(first(query["X-Amz-Expires"]), at, now)
}

// checkExpiry tells whether a URL that was signed at some time for so many seconds is valid now.
func checkExpiry(expires string, at, now time.Time) error {
	seconds, err := strconv.ParseInt(expires, 10, 64)
	switch {
	case err != nil:
		return errCode(malformedQueryAuth, "X-Amz-Expires should be a number")
	case seconds < 0:
		return errCode(malformedQueryAuth, "X-Amz-Expires must be non-negative")
	case seconds > int64(maxPresigned/time.Second):
		return errCode(malformedQueryAuth, "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds")
	case at.Sub(now) > maxSkew:
		return errCode(accessDenied, "Request is not valid yet.")
	case now.After(at.Add(time.Duration(seconds) * time.Second)):
		return errCode(accessDenied, "Request has expired.")
	}
	return nil
}

// headers returns the signed headers in their canonical form. Every header that changes what the request
// means here must be signed.
func (c *claim) headers(r *http.Request) (string, error) {
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !slices.Contains(c.signed, lower) {
			return "", errCode(accessDenied, "There were headers present in the request which were not signed: "+lower+".")
		}
	}
	var b strings.Builder
	for _, name := range c.signed {
		values := slices.Clone(r.Header.Values(name))
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		case "transfer-encoding":
			values = r.TransferEncoding
		}
		for i, v := range values {
			values[i] = strings.Join(strings.Fields(v), " ")
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.Join(values, ","))
	}
	return b.String(), nil
}

func canonicalQuery(query map[string][]string) string {
	var pairs [][2]string
	for name, values := range query {
		if name == "X-Amz-Signature" {
			continue
		}
		for _, v := range values {
			pairs = append(pairs, [2]string{escape(name, false), escape(v, false)})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	text := make([]string, len(pairs))
	for i, p := range pairs {
		text[i] = p[0] + "=" + p[1]
	}
	return strings.Join(text, "&")
}

// parseQuery is url.ParseQuery that takes a semicolon for what it is.
func parseQuery(raw string) (map[string][]string, error) {
	query := map[string][]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, err
		}
		query[name] = append(query[name], value)
	}
	return query, nil
}

// escape is the protocol's URI encoding.
func escape(s string, path bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 || path && c == '/' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// sign signs lines that follow the usual first ones.
func (s *signer) sign(kind string, lines ...string) string {
	text := strings.Join(append([]string{kind, s.date, s.sc}, lines...), "\n")
	return hex.EncodeToString(mac(s.key, text))
}

func dayKey(secret string, c claim) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{c.day, c.region, c.service, c.terminator} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
