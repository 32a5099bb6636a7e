// PoolDemo: the shape of a demonstration of pools, one for each of the ten problems that Snook 2007 lists.
//
//   problem ── the mail's words, one sentence
//   run() ──> title   what the table compares
//             lines   what happened, for somebody who has never seen a page allocator
//             table   before and after: a column for each way of doing it, a row for each figure
//             facts   the same figures by name: what a test asserts and what --json prints
//
// A demo is pure: no clock, no chance but its seed. So two runs print the same text, and a figure that only a clock
// could tell (nanoseconds) is a benchmark's to print, not a demo's.
//
// Invariants: each figure of the table is counted on the engine during the run; the machines' check() was empty at the
// end; each row of the table has as many cells as there are columns.

export type DemoResult = {
  readonly title: string;
  readonly lines: readonly string[];
  readonly table: {
    readonly columns: readonly string[];
    readonly rows: readonly (readonly (string | number)[])[];
  };
  readonly facts: Readonly<Record<string, number | string | boolean>>;
};

export type PoolDemo = {
  /** As `dimmer demo pools/NAME` has it. */
  readonly name: string;
  /** The mail's words, one sentence. */
  readonly problem: string;
  /** Deterministic in `seed`. A machine that breaks an invariant on the way throws. */
  run(options: { readonly seed?: number }): DemoResult;
};
