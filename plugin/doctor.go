package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// Where docker-volume-efs doctor asks on the control socket. Both answer a JSON object on each
// line: a [doctor.Finding] as soon as there is one, and a [doctor.File].
const (
	DoctorPath = "/doctor"
	FilesPath  = "/doctor/files"
)

// settingPrefixes are those of the variables that decide what the plugin does.
//
//nolint:gochecknoglobals // a constant, which Go has not for slices
var settingPrefixes = []string{"EFS_", "AWS_", "ECS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// Examined is what is looked at; [driver.Driver] has it.
type Examined interface {
	Doctor(ctx context.Context, report func(doctor.Finding))
}

var _ Examined = (*driver.Driver)(nil)

// Doctor examines the plugin from inside, with its settings, its credentials and its mounts.
// Nothing that it tells has a secret in it. A nil one knows nothing.
type Doctor struct {
	Driver Examined
	// Data is the data directory, Environ the environment as os.Environ has it.
	Data    string
	Environ []string
	// Snapshot is the status.
	Snapshot func() status.Snapshot
	Log      *Log
}

func (d *Doctor) examine(w http.ResponseWriter, r *http.Request) {
	if d == nil {
		http.NotFound(w, r)
		return
	}
	send, redact := lines(w), doctor.NewRedactor(d.Environ)
	current := d.Snapshot()
	send(doctor.Finding{Check: "plugin", Outcome: doctor.OK, Found: fmt.Sprintf("docker-volume-efs %s on %s, serving since %s", current.Version, current.Host, current.Since.Format(time.RFC3339))})
	d.Driver.Doctor(r.Context(), func(f doctor.Finding) { send(redact.Finding(f)) })
}

func (d *Doctor) files(w http.ResponseWriter, r *http.Request) {
	if d == nil {
		http.NotFound(w, r)
		return
	}
	send, redact := lines(w), doctor.NewRedactor(d.Environ)
	current := d.Snapshot()
	text, err := current.JSON()
	if err != nil {
		text = []byte(err.Error())
	}
	files := append([]doctor.File{
		{Name: "version.txt", Content: "docker-volume-efs " + current.Version + "\n"},
		{Name: "settings.txt", Content: redact.Settings(d.Environ, settingPrefixes...)},
		{Name: "status.json", Content: string(text)},
		{Name: "log.txt", Content: d.Log.Recent()},
	}, driver.Evidence(d.Data)...)
	for _, f := range files {
		f.Content = redact.Text(f.Content)
		send(f)
	}
}

// lines sends objects, each at once. That nobody takes them any more the request's context says.
func lines(w http.ResponseWriter) func(object any) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
	return func(object any) {
		if encoder.Encode(object) == nil {
			_ = controller.Flush()
		}
	}
}
