// Report: what became of an execution, for people, for --json and for the exit code. Every claim of it was observed.
//
//   end          exit   unit under way       finished units
//   done         0      -                    all
//   partial      64     undone, or short     some; or all, and one is short
//   refused      5      undone               none
//   deadline     124    undone               none
//   interrupted  130    undone, or short     stay
//   stale        3      undone               none
//   unsupported  4      not begun            none
//   failed       1      see `left`           stay

import type { ExecutionEnd, StepResult } from './journal.ts';

export const EXIT_OF: Readonly<Record<ExecutionEnd, number>> = Object.freeze({
  done: 0,
  failed: 1,
  stale: 3,
  unsupported: 4,
  refused: 5,
  partial: 64,
  deadline: 124,
  interrupted: 130,
});

export type StepReport = {
  readonly n: number;
  readonly title: string;
  /** Undefined: not begun. `would`: of a dry run. */
  readonly result: StepResult | 'undone' | 'left' | 'would' | undefined;
  readonly sentence: string;
  readonly errno?: string;
  readonly evidence: readonly string[];
};

export type UnitReport = {
  readonly name: string;
  /** `short`: finished with less than it was to reach. `left`: neither done nor undone. */
  readonly outcome: 'done' | 'short' | 'undone' | 'left' | 'not-begun';
  /** What was reached, "1 GiB less"; empty when nothing was. */
  readonly reached: string;
  readonly reachedBytes: number;
  readonly steps: readonly StepReport[];
};

/** Something that is not as it was, and was to be. */
export type Left = {
  readonly step: number;
  /** "block 33 is going-offline; it was online in Movable". */
  readonly sentence: string;
  /** What puts it right, to be typed in the guest or at QEMU's monitor. */
  readonly commands: readonly string[];
};

export type ExecutionReport = {
  readonly end: ExecutionEnd;
  readonly exitCode: number;
  /** One sentence: what was reached, and why not more. */
  readonly sentence: string;
  readonly reachedBytes: number;
  readonly dryRun: boolean;
  readonly units: readonly UnitReport[];
  /** Of a stale plan: the first lines that differ. */
  readonly differs: readonly { readonly assumed: string | undefined; readonly found: string | undefined }[];
  /** Empty unless `failed`. */
  readonly left: readonly Left[];
  /** What the host has to say of the plan's actions before they are done. */
  readonly notes: readonly string[];
};

/** The first `max` lines that differ, by what they are about ("block 34", "dimm dimm1"), assumed against found. */
export function differences(
  assumed: readonly string[],
  found: readonly string[],
  max = 5,
): { assumed: string | undefined; found: string | undefined }[] {
  const key = (line: string): string =>
    line
      .split(' ')
      .slice(0, /^(block|dimm|virtio-mem) /.test(line) ? 2 : 1)
      .join(' ');
  const of = (lines: readonly string[]): Map<string, string> => new Map(lines.map((l) => [key(l), l]));
  const [a, b] = [of(assumed), of(found)];
  const out: { assumed: string | undefined; found: string | undefined }[] = [];
  for (const k of new Set([...a.keys(), ...b.keys()])) {
    if (a.get(k) !== b.get(k)) out.push({ assumed: a.get(k), found: b.get(k) });
  }
  return out.slice(0, max);
}
