"""Many runs: results, statistics, report, study and sweep."""
