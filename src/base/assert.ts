// Assertions: a bug throws at once, with its values.
//
// `assert` guards contracts between parts of the program; it stays on in production. A refusal (no memory, a pinned
// page) is never an assertion: it is a value, see result.ts.

/** A broken invariant: always a bug in dimmer, never the user's or the machine's fault. Not caught inside the engine. */
export class InvariantError extends Error {
  readonly values: Readonly<Record<string, unknown>>;
  constructor(message: string, values: Readonly<Record<string, unknown>> = {}) {
    const shown = Object.entries(values).map(
      ([k, v]) => `${k}=${typeof v === 'object' ? JSON.stringify(v) : String(v)}`,
    );
    super(shown.length === 0 ? message : `${message} (${shown.join(', ')})`);
    this.name = 'InvariantError';
    this.values = values;
  }
}

export function assert(
  condition: unknown,
  message: string,
  values?: Readonly<Record<string, unknown>>,
): asserts condition {
  if (!condition) throw new InvariantError(message, values);
}

/** Ends a switch over a union: a new member is a compile error here. */
export function unreachable(x: never): never {
  throw new InvariantError('unreachable value', { value: x });
}
