// Resources against the plainest map there is: for each address, the number of who has it.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type Resource, Resources } from './resource.ts';

const ADDRESSES = 96;
/** Windows of bridges and drivers: not busy, fixed. */
const WINDOWS = [
  { start: 24, end: 47 },
  { start: 64, end: 71 },
] as const;

type Owner = { readonly name: string; mergeable: boolean };

class NaiveMap {
  readonly owners: (Owner | undefined)[] = new Array<Owner | undefined>(ADDRESSES).fill(undefined);

  windowAt(a: number): number {
    return WINDOWS.findIndex((w) => w.start <= a && a <= w.end);
  }

  mayHave(start: number, end: number): boolean {
    for (let a = start; a <= end; a++) {
      if (this.owners[a] !== undefined || this.windowAt(a) !== this.windowAt(start)) return false;
    }
    return true;
  }

  request(start: number, end: number, owner: Owner): void {
    this.owners.fill(owner, start, end + 1);
  }

  /** Joins owners that are now one: same name, both mergeable, no address between them, same window. */
  merge(owner: Owner): void {
    owner.mergeable = true;
    for (let a = 1; a < ADDRESSES; a++) {
      const left = this.owners[a - 1];
      const right = this.owners[a];
      if (left === undefined || right === undefined || left === right) continue;
      if (!left.mergeable || !right.mergeable || left.name !== right.name) continue;
      if (this.windowAt(a - 1) !== this.windowAt(a) || (left !== owner && right !== owner)) continue;
      const other = left === owner ? right : left;
      for (let b = 0; b < ADDRESSES; b++) if (this.owners[b] === other) this.owners[b] = owner;
      a = 0;
    }
  }

  release(start: number, end: number): boolean {
    const owner = this.owners[start];
    if (owner === undefined) return false;
    for (let a = start; a <= end; a++) if (this.owners[a] !== owner) return false;
    const rest: Owner = { ...owner };
    for (let a = end + 1; this.owners[a] === owner; a++) this.owners[a] = rest;
    this.owners.fill(undefined, start, end + 1);
    return true;
  }

  lines(): string[] {
    const out: string[] = [];
    for (let a = 0; a < ADDRESSES; a++) {
      const w = WINDOWS.find((x) => x.start === a);
      if (w !== undefined) out.push(`0 ${w.start}-${w.end} window`);
      const owner = this.owners[a];
      if (owner === undefined || this.owners[a - 1] === owner) continue;
      let end = a;
      while (this.owners[end + 1] === owner) end++;
      out.push(`${this.windowAt(a) < 0 ? 0 : 1} ${a}-${end} ${owner.name}`);
    }
    return out;
  }
}

it('RS7 random requests, merges and releases leave what a map of single addresses says', () => {
  const cases = Number(process.env.DIMMER_SEEDS ?? 60);
  for (let seed = 1; seed <= cases; seed++) {
    const prng = new Prng(seed);
    let resources = new Resources(WINDOWS.map((w) => ({ ...w, name: 'window', busy: false })));
    const naive = new NaiveMap();
    for (let step = 0; step < 200; step++) {
      const start = prng.below(ADDRESSES);
      const end = Math.min(ADDRESSES - 1, start + prng.below(prng.chance(0.5) ? 4 : 20));
      const where = `seed=${seed} step=${step} [${start}, ${end}]`;
      if (prng.chance(0.6)) {
        const name = prng.pick(['ram', 'kmem']);
        const got = resources.request(start, end, name);
        expect(got.ok, where).toBe(naive.mayHave(start, end));
        if (got.ok) {
          const owner: Owner = { name, mergeable: false };
          naive.request(start, end, owner);
          if (prng.chance(0.6)) {
            resources.merge(got.value as Resource);
            naive.merge(owner);
          }
        }
      } else {
        expect(resources.release(start, end), where).toBe(naive.release(start, end));
      }
      if (prng.chance(0.05)) resources = resources.copy();
      const lines: string[] = [];
      resources.forEach((r, depth) => {
        lines.push(`${depth} ${r.start}-${r.end} ${r.name}`);
      });
      expect(lines, where).toEqual(naive.lines());
    }
  }
});
