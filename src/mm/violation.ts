// Violations: what check() found, rule by rule.

export type Violation = { readonly rule: string; readonly detail: string };

/** At most this many of one rule: the first ones tell, a million say no more. */
const MOST = 20;

export class Violations {
  readonly list: Violation[] = [];
  readonly #count = new Map<string, number>();

  add(rule: string, detail: string): void {
    const n = (this.#count.get(rule) ?? 0) + 1;
    this.#count.set(rule, n);
    if (n <= MOST) this.list.push({ rule, detail });
  }
}
