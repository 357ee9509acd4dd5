package plugin

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Settings are what docker plugin set can change, read from the environment.
// Defaults are here and not in config.json: after docker plugin upgrade Docker
// keeps the old settings and adds no new ones.
type Settings struct {
	Driver   driver.Options
	LogLevel logrus.Level
	// HTTP is where metrics and the status page are; the zero value is nowhere.
	HTTP netip.AddrPort
}

// setting reads one environment variable; it is not called for an empty value.
type setting struct {
	name  string
	parse func(s *Settings, value string) error
}

func settings() []setting {
	return []setting{
		{"EFS_FILESYSTEM", func(s *Settings, v string) (err error) {
			s.Driver.FileSystem, err = filesystem.Parse(v)
			return err
		}},
		{"EFS_ROOT", func(s *Settings, v string) (err error) {
			s.Driver.Root, err = filesystem.CleanPath(v)
			return err
		}},
		{"EFS_VIA", func(s *Settings, v string) (err error) {
			s.Driver.Volume.Via, err = driver.Via(v)
			return err
		}},
		{"EFS_ZONE", func(s *Settings, v string) error {
			s.Driver.Zone = v
			return matches(zoneName, v, "the name of an availability zone, such as eu-central-1a")
		}},
		{"EFS_TARGETS", func(s *Settings, v string) (err error) {
			s.Driver.Targets, err = proxy.ParseTargets(v)
			return err
		}},
		{"EFS_RETURN", func(s *Settings, v string) (err error) {
			s.Driver.Return, err = proxy.ParseReturnPolicy(v)
			return err
		}},
		{"EFS_TLS", func(s *Settings, v string) (err error) {
			s.Driver.Volume.TLS, err = driver.Switch(v)
			return err
		}},
		{"EFS_IAM", func(s *Settings, v string) (err error) {
			s.Driver.Volume.IAM, err = driver.Switch(v)
			return err
		}},
		{"EFS_ACCESS_POINT", func(s *Settings, v string) (err error) {
			s.Driver.AccessPoint, err = driver.AccessPoint(v)
			return err
		}},
		{"EFS_CA_FILE", func(s *Settings, v string) (err error) {
			s.Driver.Roots, err = efs.LoadRoots(v)
			return err
		}},
		{"EFS_ACCESS", func(s *Settings, v string) (err error) {
			s.Driver.Volume.Access, err = driver.Access(v)
			return err
		}},
		{"EFS_REMOVE", func(s *Settings, v string) (err error) {
			s.Driver.Volume.Remove, err = driver.RemovePolicy(v)
			return err
		}},
		{"EFS_TRASH_KEEP", func(s *Settings, v string) (err error) {
			s.Driver.TrashKeep, err = driver.TrashKeep(v)
			return err
		}},
		{"EFS_HTTP", func(s *Settings, v string) (err error) {
			s.HTTP, err = httpAddress(v)
			return err
		}},
		{"EFS_LOG_LEVEL", func(s *Settings, v string) (err error) {
			s.LogLevel, err = logLevel(v)
			return err
		}},
		{"AWS_REGION", func(s *Settings, v string) error {
			s.Driver.Region = v
			return matches(regionName, v, "the name of an AWS region, such as eu-central-1")
		}},
	}
}

var (
	// zoneName is what package proxy allows before the "=" of a mount target.
	zoneName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	// regionName is what may stand in a DNS name.
	regionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// userInfo is a user's name and password in a URL. No setting takes them, and
	// they must not reach the log.
	userInfo = regexp.MustCompile(`://[^/@"]*@`)
)

func matches(pattern *regexp.Regexp, value, allowed string) error {
	if pattern.MatchString(value) {
		return nil
	}
	return errors.New("allowed: " + allowed)
}

// httpAddress takes an address and not a name: where a name leads may change, and then who
// sees the page does.
func httpAddress(value string) (netip.AddrPort, error) {
	if value == "off" {
		return netip.AddrPort{}, nil
	}
	if port, ok := strings.CutPrefix(value, "localhost:"); ok {
		value = "127.0.0.1:" + port
	}
	addr, err := netip.ParseAddrPort(value)
	if err != nil || addr.Port() == 0 {
		return netip.AddrPort{}, errors.New("allowed: off, or address:port, such as 127.0.0.1:9199 for this host alone or 0.0.0.0:9199 for all its networks")
	}
	return addr, nil
}

func logLevel(value string) (logrus.Level, error) {
	switch value {
	case "debug", "info", "warn", "error":
		return logrus.ParseLevel(value)
	}
	return logrus.InfoLevel, errors.New("allowed: debug, info, warn, error")
}

// ReadSettings reads all settings. An error does not stop the plugin: Docker
// would switch it off and show its users nothing. It is in Driver.Misconfigured,
// which every call that needs the settings then fails with.
func ReadSettings(getenv func(string) string) Settings {
	s := Settings{LogLevel: logrus.InfoLevel}
	var wrong []string
	for _, one := range settings() {
		value := strings.TrimSpace(getenv(one.name))
		if value == "" {
			continue
		}
		if err := one.parse(&s, value); err != nil {
			wrong = append(wrong, fmt.Sprintf("setting %s=%q: %v", one.name, value, err))
		}
	}
	if err := s.Driver.Complete(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if wrong != nil {
		s.Driver.Misconfigured = misconfigured(userInfo.ReplaceAllString(strings.Join(wrong, "; "), "://…@"))
	}
	return s
}

// misconfigured is what is wrong with the settings.
type misconfigured string

const changeSettings = "docker plugin disable -f NAME, docker plugin set NAME KEY=VALUE, docker plugin enable NAME"

func (m misconfigured) Error() string { return string(m) + "; change it: " + changeSettings }

// Advice parts it for those who tell the two on lines of their own.
func (m misconfigured) Advice() (wrong, do string) { return string(m), changeSettings }
