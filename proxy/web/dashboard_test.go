package web_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what is tested of Grafana's JSON.
type dashboard struct {
	UID        string
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Panels []struct {
		ID          int
		Title, Type string
		Datasource  struct{ UID string }
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ RefID, Expr, LegendFormat string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/docker-volume-efs.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEveryQueryOfTheDashboardAsksForRealMetrics(t *testing.T) {
	q, checked := scrape(t), 0
	for _, panel := range readDashboard(t).Panels {
		if panel.Type != "row" && (len(panel.Targets) == 0 || panel.Datasource.UID != "${datasource}") {
			t.Errorf("%s: %d queries of data source %q", panel.Title, len(panel.Targets), panel.Datasource.UID)
		}
		for _, target := range panel.Targets {
			checked++
			if err := q.check(target.Expr); err != nil {
				t.Errorf("%s: %v in %s", panel.Title, err, target.Expr)
			}
		}
	}
	if checked < 30 {
		t.Errorf("%d queries were checked", checked)
	}
}

// A label that a legend shows must have been left by the query.
func TestLegendsShowLabelsThatThereAre(t *testing.T) {
	shown := regexp.MustCompile(`\{\{(.*?)\}\}`)
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			for _, label := range shown.FindAllStringSubmatch(target.LegendFormat, -1) {
				grouped := regexp.MustCompile(`by \([^)]*\b` + label[1] + `\b[^)]*\)`).MatchString(target.Expr)
				if !grouped && strings.Contains(target.Expr, " by (") {
					t.Errorf("%s: %s is not in %s", panel.Title, label[0], target.Expr)
				}
			}
		}
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

func TestVariablesOfTheDashboardAreOfRealLabels(t *testing.T) {
	q, checked := scrape(t), 0
	for _, variable := range readDashboard(t).Templating.List {
		if variable.Type != "query" {
			continue
		}
		var query struct{ Query string }
		if err := json.Unmarshal(variable.Query, &query); err != nil {
			t.Fatal(err)
		}
		parts := labelValues.FindStringSubmatch(query.Query)
		if parts == nil {
			t.Fatalf("%s: %q is not understood", variable.Name, query.Query)
		}
		checked++
		if err := q.check("count by (" + parts[2] + ") (" + parts[1] + ")"); err != nil {
			t.Errorf("%s: %v", variable.Name, err)
		}
	}
	if checked != 2 {
		t.Errorf("%d variables were checked, want 2", checked)
	}
}

func TestPanelsOfTheDashboardAreOnTheirOwn(t *testing.T) {
	ids := map[int]string{}
	taken := map[[2]int]string{}
	for _, panel := range readDashboard(t).Panels {
		if other := ids[panel.ID]; other != "" || panel.Title == "" {
			t.Errorf("panel %d is %q and %q", panel.ID, other, panel.Title)
		}
		ids[panel.ID] = panel.Title
		at := panel.GridPos
		if at.X+at.W > 24 || at.H == 0 {
			t.Errorf("%s is at %+v, and there are 24 columns", panel.Title, at)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies upon %s", panel.Title, other)
				}
				taken[[2]int{x, y}] = panel.Title
			}
		}
	}
}

var (
	fence    = regexp.MustCompile("(?s)```promql\n(.*?)```")
	tableRow = regexp.MustCompile("(?m)^\\| `(efs_\\w+)` \\| (\\w+) \\|([^|]*)\\|")
)

// docs/metrics.md has every metric with its type and labels, and examples that work.
func TestTheDocumentTellsEveryMetric(t *testing.T) {
	text, err := os.ReadFile(filepath.FromSlash("../../docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	q := scrape(t)
	told := map[string]bool{}
	for _, row := range tableRow.FindAllStringSubmatch(string(text), -1) {
		told[row[1]] = true
		family := q.families[row[1]]
		if family == nil {
			t.Errorf("it tells of %s, which is no metric", row[1])
			continue
		}
		if kind := strings.ToLower(family.GetType().String()); row[2] != kind {
			t.Errorf("%s is a %s, and it says %s", row[1], kind, row[2])
		}
		labels := q.labels(family)[len(q.scraped):]
		if got := strings.ReplaceAll(row[3], "`", ""); strings.Join(sortedFields(got), " ") != strings.Join(sortedFields(strings.Join(labels, " ")), " ") {
			t.Errorf("%s has the labels %v, and it says %q", row[1], labels, got)
		}
	}
	for name := range q.families {
		if strings.HasPrefix(name, "efs_") && !told[name] {
			t.Errorf("it does not tell of %s", name)
		}
	}
	examples := 0
	for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			query, _, _ := strings.Cut(line, "#")
			if strings.TrimSpace(query) == "" {
				continue
			}
			examples++
			if err := q.check(query); err != nil {
				t.Errorf("%v in %s", err, line)
			}
		}
	}
	if examples < 5 {
		t.Errorf("%d examples were checked", examples)
	}
}
