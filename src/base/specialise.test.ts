import { describe, expect, it } from 'vitest';
import { specialise } from './specialise.ts';

const adder = (by: number): { add: (n: number) => number } => {
  const sum = (n: number): number => n + by;
  return { add: sum };
};

describe('specialise', () => {
  it('shared code is the factory itself', () => {
    expect(specialise(adder, 'shared')).toBe(adder);
  });

  it('own code is another function that does the same', () => {
    const copy = specialise(adder, 'own');
    expect(copy).not.toBe(adder);
    expect(copy(3).add(4)).toBe(7);
    expect(specialise(adder, 'own')).not.toBe(copy);
  });

  it("tolerates a bundler's __name", () => {
    const factory = new Function('__name', 'return function f() { const g = __name(() => 5, "g"); return g(); }')(
      (f: unknown) => f,
    ) as () => number;
    expect(specialise(factory, 'own')()).toBe(5);
  });

  it('a factory that uses a name from outside fails at its first call, not quietly', () => {
    const outside = 7;
    const copy = specialise(() => outside + 1, 'own');
    expect(() => copy()).toThrow(ReferenceError);
  });

  it('uses the original where code from strings is forbidden', () => {
    const original = globalThis.Function;
    globalThis.Function = function forbidden() {
      throw new EvalError('Code generation from strings disallowed for this context');
    } as unknown as FunctionConstructor;
    try {
      expect(specialise(adder, 'own')).toBe(adder);
    } finally {
      globalThis.Function = original;
    }
  });

  it('does not hide a factory that cannot be copied', () => {
    const { method } = {
      method(n: number): number {
        return n;
      },
    };
    expect(() => specialise(method, 'own')).toThrow(SyntaxError);
  });
});
