// Types of build-guest.mjs.

export type BuiltGuest = {
  readonly why?: undefined;
  readonly qemu: string;
  readonly kernel: string;
  readonly initrd: string;
  /** uname -r. */
  readonly version: string;
  readonly notes: readonly string[];
};
export type MissingGuest = { readonly why: readonly string[] };

export function buildGuest(): BuiltGuest | MissingGuest;
export function skippedLines(why: readonly string[]): string[];
