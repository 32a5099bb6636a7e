// Pool edits: what a text has to say differently so that a machine made from it has the pools that a verb left behind.
//
// A size in the file is what was carved: a pool's own pages and those of the pools carved from it in turn.
//
//   web   size: 512M ──┬── own pages 448M      resize web to 1G own pages:  size: 1088M
//   cache size: 64M  ──┘   carved from web     cache is as it was
//
// So after any verb a pool's size is the sum over its subtree, and the edits are the sizes that differ.

import type { Machine } from '#mm/index';
import { PAGE_SIZE, pools } from '#mm/index';
import type { Plain, PoolEdit } from './edit-pools.ts';
import type { PoolPlan } from './pool-plan.ts';
import { problemAt, readYaml } from './yaml-fields.ts';

/** Pages as a file says them: 512M, 1088M, 12K. Exact. */
export function sizeWord(pages: number): string {
  const bytes = pages * PAGE_SIZE;
  const unit = (['P', 'T', 'G', 'M', 'K'] as const).find(
    (_, k) => bytes >= 2 ** (50 - 10 * k) && bytes % 2 ** (50 - 10 * k) === 0,
  );
  return unit === undefined ? '0' : `${bytes / 2 ** (50 - 10 * 'PTGMK'.indexOf(unit))}${unit}`;
}

/** "512M" or "1024 pages" -> pages; or what is wrong with it, without a place. */
export function pagesOfWord(word: string): number | string {
  const read = readYaml(JSON.stringify(word), (root) => root.pages(1));
  if (read.ok) return read.value;
  return read.error.sentence.slice(problemAt(read.error, '').sentence.length);
}

/** Pages carved for each pool of users, by name: its own and its subtree's. */
export function carved(m: Machine): Map<string, number> {
  const users = pools(m)
    .list()
    .filter((s) => s.kind === 'user');
  const total = (name: string, own: number): number =>
    users.reduce((n, s) => n + (s.parent === name ? total(s.name, s.managed) : 0), own);
  return new Map(users.map((s) => [s.name, total(s.name, s.managed)]));
}

/** The sizes that `after` has and `before` had not, for the pools of `plans`. */
export function sizeEdits(plans: readonly PoolPlan[], before: Machine, after: Machine): PoolEdit[] {
  const was = carved(before);
  const is = carved(after);
  return plans.flatMap(({ spec: { name } }): PoolEdit[] => {
    const pages = is.get(name);
    return pages === undefined || pages === was.get(name)
      ? []
      : [{ kind: 'set', pool: name, field: 'size', value: sizeWord(pages) }];
  });
}

/** `plan`'s list of fallbacks with the edge to `to` replaced: undefined: gone. */
export function edgeEdit(plan: PoolPlan, to: string, weight: number | undefined): PoolEdit {
  const kept: Plain[] = plan.fallback.filter((e) => e.to !== to).map((e) => ({ to: e.to, weight: e.weight }));
  const edges = weight === undefined ? kept : [...kept, { to, weight }];
  return { kind: 'set', pool: plan.spec.name, field: 'fallback', value: edges.length === 0 ? undefined : edges };
}

/** A pool goes, and with it every edge to it. */
export function removal(plans: readonly PoolPlan[], name: string): PoolEdit[] {
  const pointing = plans.filter((p) => p.spec.name !== name && p.fallback.some((e) => e.to === name));
  return [{ kind: 'remove', pool: name }, ...pointing.map((p) => edgeEdit(p, name, undefined))];
}
