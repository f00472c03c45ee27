package integration

const sweepOrder = "LOTKEEPER_TEST_SWEEP"

func sweepAsOrdered(string) int { return 0 }
