// Exit codes, the same for every command (docs/guide/check.md lists them for scripts).
//
//   0  done; for a target: it can be had        3    not feasible: the target would not go, not all of it, or not for sure
//   1  failed: a bug, or a full disk            4    unsupported: a kernel without memory blocks, pages not readable
//   2  usage, or a source that is unreadable    5    refused by the guest or the kernel, and everything is as it was
//   64 partial success (chmem's number)         124  deadline (timeout's number); 130 interrupted (the shell's for SIGINT)

export const EXIT = Object.freeze({
  OK: 0,
  FAILED: 1,
  USAGE: 2,
  NOT_FEASIBLE: 3,
  UNSUPPORTED: 4,
  REFUSED: 5,
  PARTIAL: 64,
  DEADLINE: 124,
  INTERRUPTED: 130,
});
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** One sentence for people, and what the process ends with. */
export type Complaint = { readonly exit: ExitCode; readonly sentence: string };
