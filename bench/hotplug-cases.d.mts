export type Sizes = {
  readonly bytes: number;
  readonly boot: number;
  readonly runs: number;
  readonly writes: number;
  readonly blocks: number;
  readonly small: number;
  readonly large: number;
  readonly times: number;
};
export type Row = {
  readonly case: string;
  readonly hash: string;
  readonly wrong: readonly unknown[];
  readonly ms: number;
  readonly walkMs: number;
  readonly ratio: number;
  readonly moved?: number;
  readonly blocks?: number;
};
export const CASE_NAMES: readonly string[];
export const FULL: Sizes;
export const QUICK: Sizes;
export function runCase(name: string, api: object, sizes: Sizes): Row;
