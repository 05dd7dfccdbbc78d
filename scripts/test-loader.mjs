// Loaded first into every process of a test run. Test files and the sources that they import are
// stripped of their types by esbuild (tsx) instead of by tap's own loader, which compiles every module
// again in every test file: some seconds of a processor for each of 200 files.
// All other processes, agents above all, run as they are.

if (process.env.TAP_CHILD_ID !== undefined && /\.test\.ts$/.test(process.argv[1] ?? '')) {
  // tells tap's loader, which comes after this one, that types are seen to
  process.env.TAP_TYPE_STRIP_ONLY = '1';
  await import('tsx/esm');
}
