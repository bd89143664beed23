package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// classify turns an error of the SDK into a failure. sent says whether the
// request left as a whole.
func (b *bucket) classify(ctx context.Context, doing string, err error, sent bool) error {
	if e := (*transport.Error)(nil); errors.As(err, &e) {
		return err
	}
	if response := responseOf(err); response != nil { //nolint:bodyclose // the SDK has read and closed it
		return b.answered(doing, err, response)
	}
	// An error of the API without a response is one of the token service's.
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return transport.Classify(classOf(api.ErrorCode(), 0), fmt.Errorf("%s: %s: %s", doing, api.ErrorCode(), api.ErrorMessage()), transport.WithCode(code(api.ErrorCode(), 0)))
	}
	return network(ctx, doing, err, sent)
}

// network classifies an error without an answer.
func network(ctx context.Context, doing string, err error, sent bool) error {
	err = fmt.Errorf("%s: %w", doing, cause(err))
	switch ended := ctx.Err() != nil; {
	case sent && ended:
		return transport.UnknownOutcome(err, transport.WithCode("s3.timeout"))
	case sent:
		return transport.UnknownOutcome(err, transport.WithCode("s3.cut"))
	case ended:
		return transport.Unavailable(err, transport.WithCode("s3.timeout"))
	}
	classified := transport.Network(err)
	if e := (*transport.Error)(nil); errors.As(classified, &e) {
		return classified
	}
	return transport.Transient(err, transport.WithCode("s3.cut"))
}

// cause strips what the SDK and net/http wrap around an error: attempts that
// were not made and a URL that says nothing new.
func cause(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	if e := (*smithy.OperationError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// responseOf is the answer behind an error, or nil. The SDK makes one of status 0
// where there was none.
func responseOf(err error) *http.Response {
	var e *smithyhttp.ResponseError
	if errors.As(err, &e) && e.Response != nil && e.Response.Response != nil && e.Response.StatusCode != 0 {
		return e.Response.Response
	}
	return nil
}

func statusOf(err error) int {
	if response := responseOf(err); response != nil { //nolint:bodyclose // the SDK has read and closed it
		return response.StatusCode
	}
	return 0
}

// answered classifies an answer that says no.
func (b *bucket) answered(doing string, err error, response *http.Response) error {
	name, message := "", ""
	if api := smithy.APIError(nil); errors.As(err, &api) {
		name, message = api.ErrorCode(), api.ErrorMessage()
	}
	if name == "UnknownError" || name == "Unknown" {
		name = ""
	}
	class := classOf(name, response.StatusCode)
	if region := response.Header.Get("X-Amz-Bucket-Region"); class == transport.ClassConfig && region != "" && region != b.config.region() {
		message += "; the bucket is in region " + region
	}
	text := fmt.Sprintf("%s: %d %s", doing, response.StatusCode, http.StatusText(response.StatusCode))
	if name != "" {
		text = fmt.Sprintf("%s: %s: %s", doing, name, message)
	}
	if id := response.Header.Get("X-Amz-Request-Id"); id != "" {
		text += fmt.Sprintf(" (request %.64s)", id)
	}
	if class == transport.ClassAuth && name == "ExpiredToken" && b.renew() {
		class = transport.ClassTransient
	}
	return transport.Classify(class, errors.New(text), transport.WithCode(code(name, response.StatusCode)), transport.WithStatus(response.StatusCode),
		transport.WithExcerpt([]byte(message)), transport.WithRetryAfter(retryAfter(response.Header.Get("Retry-After"), time.Now())))
}

// renew forgets temporary keys, so that the next attempt asks for new ones;
// false where there is nobody to ask.
func (b *bucket) renew() bool {
	cache, ok := b.credentials.(*aws.CredentialsCache)
	if ok {
		cache.Invalidate()
	}
	return ok
}

var codeForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,60}$`)

func code(name string, status int) string {
	name = strings.ReplaceAll(name, ":", ".") // MinIO's kms:KeyNotFound
	if codeForm.MatchString(name) {
		return "s3." + name
	}
	return "http." + strconv.Itoa(status)
}

// classOf is the table. What one wrong setting would do to a whole queue is
// never PERMANENT: the lane is held until a person has put it right.
func classOf(name string, status int) transport.Class {
	switch name {
	case "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequestsException", "TooManyRequests", "BandwidthLimitExceeded":
		return transport.ClassRateLimited
	case "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException",
		"InvalidToken", "TokenRefreshRequired", "NotSignedUp", "InvalidSecurity", "InvalidIdentityToken", "IDPRejectedClaim", "UnauthorizedAccess", "InvalidPayer":
		return transport.ClassAuth
	case "EntityTooLarge", "KeyTooLongError", "XMinioInvalidObjectName", "InvalidURI":
		return transport.ClassPermanent
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody", "InternalError", "RequestTimeout", "RequestTimeTooSkewed", "OperationAborted", "ConditionalRequestConflict",
		"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "Busy", "IDPCommunicationError":
		// RequestTimeTooSkewed: the SDK learns the server's clock from the answer and signs by it from then on.
		return transport.ClassTransient
	case "ServiceUnavailable", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded":
		return transport.ClassUnavailable
	}
	return classOfStatus(status)
}

// classOfStatus is for codes that are not in the table, and for none.
func classOfStatus(status int) transport.Class {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return transport.ClassAuth
	case status == http.StatusTooManyRequests:
		return transport.ClassRateLimited
	case status == http.StatusRequestTimeout || status == http.StatusConflict:
		return transport.ClassTransient
	case status == http.StatusRequestEntityTooLarge:
		return transport.ClassPermanent
	case status == http.StatusNotImplemented:
		return transport.ClassConfig
	case status >= 500:
		return transport.ClassTransient
	case status >= 300:
		return transport.ClassConfig // NoSuchBucket, PermanentRedirect, InvalidStorageClass, InvalidRequest, KMS.*
	}
	return transport.ClassTransient
}

// retryAfter reads both forms of RFC 9110, 10.2.3; 0 where there is none. The
// SDK of the transport bounds it.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(at.Sub(now), 0)
}
