// verify: does the twin hold its invariants, and does it say what the kernel's files say?
//
// Violations are bugs of dimmer. Differences are not: a live machine changes while it is read, and some figures are only
// derived; each is named, with both numbers.

import type { Violation } from '#mm/index';
import type { Comparison, Twin } from '#twin/index';
import { type SourceInfo, sourceInfo } from './source-info.ts';

export type VerifyReport = {
  readonly source: SourceInfo;
  /** Broken invariants of the machine; [] without page flags, where there is no machine. */
  readonly violations: readonly Violation[];
  /** Figures that were compared. */
  readonly compared: number;
  readonly differences: readonly Comparison[];
  /** The whole machine as one number: equal captures give equal machines. Undefined without page flags. */
  readonly digest: string | undefined;
};

/** Cost O(frames): every table is rebuilt and compared. */
export function verify(twin: Twin): VerifyReport {
  const source = sourceInfo(twin);
  if (twin.level === 'counters') {
    return { source, violations: [], compared: 0, differences: [], digest: undefined };
  }
  return {
    source,
    violations: twin.machine.check(3),
    compared: twin.comparisons.length,
    differences: twin.comparisons.filter((c) => !c.equal),
    digest: twin.machine.digest(),
  };
}
