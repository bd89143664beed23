package destination

import (
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// What a plugin says of a destination may quote what it was given. Its own secrets
// are taken out here, short ones too: those of others, which the plugin host looks
// for, only from a length on that nobody can guess.

func scrubDiagnostics(said []*transportv1.Diagnostic, secrets []string) []*transportv1.Diagnostic {
	redactor := secret.NewRedactor(secrets...)
	for _, one := range said {
		one.Summary, one.Detail = redactor.Text(one.GetSummary()), redactor.Text(one.GetDetail())
	}
	return said
}

func scrubSteps(steps []*transportv1.TestStep, secrets []string) {
	redactor := secret.NewRedactor(secrets...)
	for _, step := range steps {
		step.Name, step.Detail = redactor.Text(step.GetName()), redactor.Text(step.GetDetail())
		if f := step.GetFailure(); f != nil {
			f.Message = redactor.Text(f.GetMessage())
		}
	}
}
