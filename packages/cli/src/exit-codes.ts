/** The exit codes for people. A test holds them against `exitCodeOf` and against the docs. */
export const exitCodes: readonly { status: number; meaning: string }[] = [
  { status: 0, meaning: 'done' },
  { status: 1, meaning: 'failed for a reason that no other code names' },
  { status: 2, meaning: 'usage: a wrong command, flag, size, label or name' },
  { status: 3, meaning: 'not found' },
  { status: 4, meaning: 'already exists' },
  {
    status: 5,
    meaning: 'the state of things does not allow it (attached elsewhere, no space, in use)',
  },
  { status: 6, meaning: 'not authenticated' },
  { status: 7, meaning: 'not permitted' },
  { status: 8, meaning: 'conflict with another change: read again and retry' },
  { status: 9, meaning: 'unavailable (no quorum, nodes down) or outcome unknown: retry later' },
  { status: 10, meaning: 'a check found something (--exit-code)' },
  { status: 11, meaning: 'refused because it is not safe' },
  { status: 124, meaning: 'no answer in time (--timeout)' },
  { status: 130, meaning: 'interrupted (Ctrl-C)' },
];
