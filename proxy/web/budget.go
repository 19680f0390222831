package web

import (
	"context"
	"errors"

	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/swap"
)

// errBudget means that a limit was reached while a WebSocket was open.
var errBudget = errors.New("a limit of the run's budget is reached")

// admit asks the budget for a request that carries keys. The meter that comes with it is done by metered.
func (r *h1relay) admit(ctx context.Context, plan *swap.Plan) (ref *swap.Refusal) {
	g := r.s.srv.budget
	if g == nil {
		return nil
	}
	r.meter, ref = g.Admit(ctx, plan, budget.Request{Method: r.event.Method, Target: string(r.req.target), Event: r.event})
	return ref
}

// metered counts the answer, whole or not, if nobody has.
func (r *h1relay) metered() {
	if r.meter != nil {
		r.meter.Done(r.event.Sent, r.event.Status)
		r.meter = nil
	}
}

// admit asks the budget for a request that carries keys. The stream's end counts its answer.
func (j *sessionJudge) admit(ctx context.Context, st *h2stream, plan *swap.Plan) (ref *swap.Refusal) {
	g := j.s.srv.budget
	if g == nil {
		return nil
	}
	st.meter, ref = g.Admit(ctx, plan, budget.Request{Method: st.method, Target: st.path, Event: j.base(st)})
	return ref
}
