// Package agent knows what an agent is before it runs: its superserve.yaml, the files that are
// deployed with it, the registry of deployed agents and the records of their runs.
package agent
