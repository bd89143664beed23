package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

// Exit codes, for scripts; `deliveryd help` lists them.
const (
	exitOK          = 0
	exitFailed      = 1 // anything else
	exitUsage       = 2 // a wrong flag or argument
	exitInvalid     = 3 // the configuration, or the request, is wrong
	exitUnavailable = 4 // no daemon, or one that cannot work now: try again
	exitNotFound    = 5
	exitDenied      = 6 // the token is missing, wrong, or may not do that
)

const exitCodesHelp = `Exit codes:
  0  done
  1  failed
  2  wrong flag or argument
  3  the configuration or the request is wrong; trying again is no use
  4  the daemon or its database cannot be reached now; try again
  5  not found
  6  the token is missing, wrong, or its role may not do that`

// usageError is a wrong flag or argument.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// exitError ends the program with a code, having said all there is to say.
type exitError int

func (e exitError) Error() string { return "failed" }

// explain turns an error into an exit code and what to print.
func explain(err error) (code int, text string) {
	var exit exitError
	var usage usageError
	var problem *api.Problem
	switch {
	case errors.As(err, &exit):
		return int(exit), ""
	case errors.As(err, &usage):
		return exitUsage, err.Error()
	case errors.As(err, &problem):
		return codeOf(problem.Status), problemText(problem)
	case errors.Is(err, client.ErrUnreachable):
		return exitUnavailable, err.Error() + "\n  Is it running? --address or DELIVERYD_ADDRESS says where."
	case errors.Is(err, client.ErrNoAnswer):
		return exitUnavailable, err.Error() + "\n  What was asked for may have been done all the same. --timeout says how long to wait."
	}
	return exitFailed, err.Error()
}

func codeOf(status int) int {
	switch {
	case status == http.StatusNotFound:
		return exitNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return exitDenied
	case status >= 500:
		return exitUnavailable
	}
	return exitInvalid
}

func problemText(p *api.Problem) string {
	var text strings.Builder
	text.WriteString(p.Detail + " (" + string(p.Code) + ")")
	if len(p.Errors) < 2 && p.Code != api.CodeInvalidConfig {
		return text.String()
	}
	for _, field := range p.Errors {
		text.WriteString("\n  ")
		if place := field.Pointer + field.Parameter + field.Header; place != "" {
			text.WriteString(place + ": ")
		}
		text.WriteString(strings.ReplaceAll(field.Detail, "\n", "\n  "))
	}
	return text.String()
}
