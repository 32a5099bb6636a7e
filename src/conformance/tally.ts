// Tally: what was compared with what was recorded, and how it came out.
//
//   compared = equal + excused + wrong        not determined: counted apart, never compared
//
// An excuse has a name; docs/fidelity.md explains each. What is wrong is kept with both values.

export const EXCUSES = {
  'page-flags-silent': 'page flags cannot show what decides it (references, pages without flags)',
  'contents-changed': 'the running kernel used or freed pages since their flags were read',
  'unrecorded-writes': 'a script wrote to kernel files without a record of what came of it',
} as const;
export type Excuse = keyof typeof EXCUSES;

export type Wrong = {
  readonly line: number;
  readonly t: number;
  readonly what: string;
  readonly recorded: string;
  readonly engine: string;
};

export class Tally {
  compared = 0;
  equal = 0;
  undetermined = 0;
  readonly excused = new Map<Excuse, number>();
  readonly wrong: Wrong[] = [];
  /** Comparisons by kind, for the report. */
  readonly kinds = new Map<string, number>();
  /** Where the replay is. */
  at: { readonly line: number; readonly t: number } = { line: 0, t: 0 };

  /** One comparison. `excuse` is taken only when the two differ. */
  compare(kind: string, what: string, recorded: string | number, engine: string | number, excuse?: Excuse): void {
    this.compared++;
    this.kinds.set(kind, (this.kinds.get(kind) ?? 0) + 1);
    if (recorded === engine) this.equal++;
    else if (excuse !== undefined) this.excused.set(excuse, (this.excused.get(excuse) ?? 0) + 1);
    else {
      this.wrong.push({ ...this.at, what: `${kind}: ${what}`, recorded: String(recorded), engine: String(engine) });
    }
  }

  get excusedCount(): number {
    return [...this.excused.values()].reduce((a, b) => a + b, 0);
  }
}
