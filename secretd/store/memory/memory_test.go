package memory

import (
	"testing"

	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(testing.TB) store.Store { return New() })
}
