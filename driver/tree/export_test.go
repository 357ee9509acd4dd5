package tree

// ReadAlone is what a reader of a file does first.
func (d *Dir) ReadAlone(name string) (closed func(), err error) { return d.readAlone(name) }
