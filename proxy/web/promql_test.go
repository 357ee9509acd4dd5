package web_test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// queries checks PromQL against metrics that a registry has given. It is no parser of
// all of PromQL: what it does not know it calls wrong.
type queries struct {
	families map[string]*dto.MetricFamily
	// scraped are the labels that Prometheus adds.
	scraped []string
}

// scrape gives the metrics of a program in which there is something of everything.
func scrape(t *testing.T) queries {
	t.Helper()
	answer := ask(t, of(filled(time.Now())), http.MethodGet, "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return queries{families, []string{"instance", "job"}}
}

// grafana replaces what Grafana replaces.
var grafana = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$instance", ".*", "$filesystem", ".*")

var token = regexp.MustCompile(`^(?:\s+|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9]+(?:\.[0-9]+)?(?:ms|[smhdwy])?|"(?:[^"\\]|\\.)*"|=~|!~|!=|==|>=|<=|[-+*/%^(){}\[\],=<>])`)

// tokens takes a query to pieces.
func tokens(query string) ([]string, error) {
	var all []string
	for query != "" {
		one := token.FindString(query)
		if one == "" {
			return nil, fmt.Errorf("not understood: %q", query)
		}
		query = query[len(one):]
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, one)
		}
	}
	return all, nil
}

var (
	overTime   = []string{"rate", "increase", "changes"} // of a range; the first two of counters only
	functions  = append([]string{"time", "vector"}, overTime...)
	aggregates = []string{"sum", "min", "max", "avg", "count"}
	grouping   = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	operators  = []string{"and", "or", "unless", "bool"}
	name       = regexp.MustCompile(`^[a-zA-Z_:]`)
	duration   = regexp.MustCompile(`^[0-9]+(ms|[smhdwy])$`)
)

// check tells what is wrong with a query, nil if nothing is.
func (q queries) check(query string) error {
	all, err := tokens(grafana.Replace(query))
	if err != nil {
		return err
	}
	if err := balanced(all); err != nil {
		return err
	}
	var metrics, groups []string
	for i := 0; i < len(all); i++ {
		next := ""
		if i+1 < len(all) {
			next = all[i+1]
		}
		switch one := all[i]; {
		case !name.MatchString(one), slices.Contains(operators, one):
		case slices.Contains(grouping, one):
			end := i + slices.Index(all[i:], ")")
			if next != "(" || end < i {
				return fmt.Errorf("%s without its labels", one)
			}
			groups = append(groups, all[i+2:end]...)
			i = end
		case slices.Contains(aggregates, one):
			if next != "(" && !slices.Contains(grouping, next) {
				return fmt.Errorf("%s of nothing", one)
			}
		case slices.Contains(functions, one):
			if next != "(" {
				return fmt.Errorf("%s of nothing", one)
			}
		default:
			before := ""
			if i >= 2 && all[i-1] == "(" {
				before = all[i-2]
			}
			used, err := q.selector(all[i:], before)
			if err != nil {
				return err
			}
			metrics = append(metrics, one)
			i += used - 1
		}
	}
	if len(metrics) == 0 {
		return fmt.Errorf("it asks for no metric")
	}
	return q.checkGroups(metrics, groups)
}

func balanced(all []string) error {
	closes := map[string]string{")": "(", "]": "[", "}": "{"}
	var open []string
	for _, one := range all {
		if slices.Contains([]string{"(", "[", "{"}, one) {
			open = append(open, one)
		}
		if want := closes[one]; want != "" {
			if len(open) == 0 || open[len(open)-1] != want {
				return fmt.Errorf("%q too many", one)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%q is not closed", open[len(open)-1])
	}
	return nil
}

// selector checks a metric with its labels and range, and returns how many tokens that
// is. function is what it is directly given to.
func (q queries) selector(all []string, function string) (used int, err error) {
	family := q.families[all[0]]
	if family == nil {
		return 0, fmt.Errorf("there is no metric %s", all[0])
	}
	used = 1
	matchers := map[string]func(string) bool{}
	if len(all) > used && all[used] == "{" {
		end := slices.Index(all, "}")
		if matchers, err = q.matchers(family, all[used+1:end]); err != nil {
			return 0, err
		}
		used = end + 1
	}
	ranged := len(all) > used+2 && all[used] == "["
	if ranged {
		if !duration.MatchString(all[used+1]) || all[used+2] != "]" {
			return 0, fmt.Errorf("%s: %q is no range", all[0], all[used+1])
		}
		used += 3
	}
	counter := family.GetType() == dto.MetricType_COUNTER
	switch wants := slices.Contains(overTime, function); {
	case wants != ranged:
		return 0, fmt.Errorf("%s(%s): with a range: %t", function, all[0], ranged)
	case counter != (function == "rate" || function == "increase"):
		return 0, fmt.Errorf("%s(%s): counters are for rate and increase, others are not", function, all[0])
	}
	if !slices.ContainsFunc(family.GetMetric(), func(m *dto.Metric) bool { return q.matches(m, matchers) }) {
		return 0, fmt.Errorf("%s: no time series has these labels", strings.Join(all[:used], ""))
	}
	return used, nil
}

func (q queries) matches(m *dto.Metric, matchers map[string]func(string) bool) bool {
	for label, matches := range matchers {
		value := "somewhere"
		for _, pair := range m.GetLabel() {
			if pair.GetName() == label {
				value = pair.GetValue()
			}
		}
		if !matches(value) {
			return false
		}
	}
	return true
}

func (q queries) matchers(family *dto.MetricFamily, all []string) (map[string]func(string) bool, error) {
	matchers := map[string]func(string) bool{}
	for len(all) > 0 {
		if len(all) < 3 || !name.MatchString(all[0]) || !strings.HasPrefix(all[2], `"`) {
			return nil, fmt.Errorf("%s: %q is no matcher", family.GetName(), all)
		}
		if !slices.Contains(q.labels(family), all[0]) {
			return nil, fmt.Errorf("%s has no label %s", family.GetName(), all[0])
		}
		value, err := strconv.Unquote(all[2])
		if err != nil {
			return nil, err
		}
		pattern, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return nil, err
		}
		switch all[1] {
		case "=":
			matchers[all[0]] = func(v string) bool { return v == value }
		case "!=":
			matchers[all[0]] = func(v string) bool { return v != value }
		case "=~":
			matchers[all[0]] = pattern.MatchString
		case "!~":
			matchers[all[0]] = func(v string) bool { return !pattern.MatchString(v) }
		default:
			return nil, fmt.Errorf("%s: %q compares no label", family.GetName(), all[1])
		}
		if all = all[3:]; len(all) > 0 {
			if all[0] != "," || len(all) == 1 {
				return nil, fmt.Errorf("%s: %q between matchers", family.GetName(), all[0])
			}
			all = all[1:]
		}
	}
	return matchers, nil
}

func (q queries) labels(family *dto.MetricFamily) []string {
	labels := slices.Clone(q.scraped)
	for _, pair := range family.GetMetric()[0].GetLabel() {
		labels = append(labels, pair.GetName())
	}
	return labels
}

// checkGroups wants labels that are grouped by on every metric of the query.
func (q queries) checkGroups(metrics, groups []string) error {
	for _, label := range groups {
		if label == "," {
			continue
		}
		for _, metric := range metrics {
			if !slices.Contains(q.labels(q.families[metric]), label) {
				return fmt.Errorf("%s has no label %s to group by", metric, label)
			}
		}
	}
	return nil
}

func TestQueriesThatAreWrongAreFound(t *testing.T) {
	q := scrape(t)
	for query, says := range map[string]string{
		`sum(efs_healthy)`: "",
		`sum by (filesystem, zone) (rate(efs_relay_bytes_total{direction="out", instance=~"$instance"}[$__rate_interval])) > 1.5`: "",
		`time() - efs_last_move_timestamp_seconds or vector(0)`:                                                                   "",
		`count by (version) (efs_build_info) == 1 and on (instance) efs_healthy`:                                                  "efs_healthy has no label version",
		`efs_healty`:                                          "no metric efs_healty",
		`sum(efs_target_health{stat="up"})`:                   "no label stat",
		`sum(efs_target_health{state="UP"})`:                  "no time series",
		`sum(efs_target_health{state=~"UP|nope"})`:            "no time series",
		`sum by (zoned) (efs_target_health)`:                  "no label zoned",
		`sum(efs_target_health`:                               "not closed",
		`sum(efs_target_health))`:                             "too many",
		`sum(efs_relay_bytes_total)`:                          "counters are for rate",
		`rate(efs_relay_bytes_total)`:                         "with a range: false",
		`sum(efs_relay_connections[5m])`:                      "with a range: true",
		`rate(efs_relay_connections[5m])`:                     "counters are for rate",
		`rate(efs_relay_bytes_total[5x])`:                     "is no range",
		`histogram_quantile(0.9, efs_target_health)`:          "no metric histogram_quantile",
		`efs_target_health{state="up" zone="a"}`:              "between matchers",
		`efs_target_health{state="up",}`:                      "between matchers",
		`efs_target_health{state~"up"}`:                       "not understood",
		`efs_target_health{state=="up"}`:                      "compares no label",
		`efs_target_health{state}`:                            "no matcher",
		`sum by filesystem (efs_target_health)`:               "by without its labels",
		`sum efs_target_health`:                               "sum of nothing",
		`vector(1)`:                                           "no metric",
		`efs_target_health{zone=~"("}`:                        "missing closing",
		`rate(efs_moves_total{cause="lightning"}[5m])`:        "no time series",
		`increase(efs_moves_total{cause="drain"}[1h]) ; drop`: "not understood",
	} {
		err := q.check(query)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", query, err, says)
		}
	}
	if len(slices.Collect(maps.Keys(q.families))) < 30 {
		t.Errorf("there are %d metrics", len(q.families))
	}
}
