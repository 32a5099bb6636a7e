// Evidence: what is known of a block's contents when somebody tries to take it offline.
//
//   exact    its own page flags were read just before the attempt
//   stale    the last snapshot's page flags, and it has not been brought online since
//   none     it came online after the last snapshot: nothing was read of it
//
// Movable memory without evidence is expected to go; of a kernel zone's nothing can be said. The verdict itself is the
// twin's (twin/verdict.ts): tried on a fork.

import { type BlockId, toBlockId } from '#base/units';
import type { Capture } from '#capture/capture';
import { overlay, type PageRuns, runsOf } from '#capture/page-runs';
import { buildTwin } from '#twin/build';
import { Judge, type Verdict } from '#twin/verdict';

export type Expectation =
  | { readonly kind: 'exact' | 'stale'; readonly verdict: Verdict; readonly errno: string | undefined }
  | { readonly kind: 'none' };

export type BlockPages = { readonly flags: PageRuns; readonly counts: PageRuns | undefined };

const NOPAGE = 1 << 20;

export class Evidence {
  #capture: Capture | undefined;
  /** Blocks whose frames in the snapshot are not those that are there now. */
  readonly #renewed = new Set<number>();
  #judge: Judge | undefined;

  /** A snapshot was taken: from now on it counts. One without page flags says nothing. */
  snapshot(capture: Capture): void {
    if (capture.kpageflags === undefined) return;
    this.#capture = capture;
    this.#judge = undefined;
    this.#renewed.clear();
  }

  renewed(block: BlockId): void {
    this.#renewed.add(block);
  }

  expect(block: BlockId, own: BlockPages | undefined, blockPages: number): Expectation {
    const capture = this.#capture;
    if (capture?.kpageflags === undefined) return { kind: 'none' };
    if (own !== undefined) {
      const start = block * blockPages;
      const { kpagecount, ...rest } = capture;
      const patched: Capture = {
        ...rest,
        kpageflags: laid(capture.kpageflags, start, own.flags, NOPAGE),
        ...(kpagecount === undefined
          ? {}
          : { kpagecount: own.counts === undefined ? kpagecount : laid(kpagecount, start, own.counts, 0) }),
      };
      return this.#ask('exact', judgeOf(patched), block);
    }
    if (this.#renewed.has(block)) return { kind: 'none' };
    this.#judge ??= judgeOf(capture);
    return this.#ask('stale', this.#judge, block);
  }

  #ask(kind: 'exact' | 'stale', judge: Judge | undefined, block: BlockId): Expectation {
    const v = judge?.judge(toBlockId(block));
    return v?.verdict === undefined ? { kind: 'none' } : { kind, verdict: v.verdict, errno: v.errno };
  }
}

function judgeOf(capture: Capture): Judge | undefined {
  const twin = buildTwin(capture, { types: 'contents' });
  return twin.ok ? new Judge(twin.value) : undefined;
}

/** `patch` over `runs`; a gap before it is filled. */
function laid(runs: PageRuns, startPfn: number, patch: PageRuns, filler: number): PageRuns {
  const gap = runsOf([[filler, 0, Math.max(0, startPfn - runs.endPfn)]]);
  return overlay(overlay(runs, runs.endPfn, gap), startPfn, patch);
}
