// Specialise: a private copy of a factory's code, so that the machine code of one instance is made for that instance.
//
// V8 folds a closure's `const` slots (the base address and length of a typed array, a size, another function) into the
// code it makes, but only while every inner function has been instantiated once. Two areas made by one factory share
// their code, and lose it: up to a fifth slower (bench/README.md, row dimmer-shared). So a long-lived area gets its own
// copy of the factory's source, compiled once, and short-lived ones (forks of a machine) share the original.
//
//   'own'     compile a copy: about a millisecond, then the fastest code; for the pools of a long-lived machine
//   'shared'  the factory itself: no compilation; for forks, tests, and wherever many instances come and go
//
// The contract: a factory is a function expression or declaration whose body names only its own parameters and
// JavaScript's globals. Imports, module constants and helpers come in as arguments. A copy has no module around it, so
// that a name from outside throws a ReferenceError at the first call: the tests run every factory both ways.
//
// Where a policy forbids code from strings (CSP without 'unsafe-eval', node --disallow-code-generation-from-strings)
// the original is used: the same results, slower.

/** Whose machine code an instance runs: a copy of its own, or the one that all share. */
export type Code = 'own' | 'shared';

type AnyFunction = (...args: never[]) => unknown;

/**
 * @returns for 'own' a function equal to `factory`, with code of its own; for 'shared', or where code from strings is
 *          forbidden, `factory`. Cost of a copy: one parse of the source.
 */
export function specialise<F extends AnyFunction>(factory: F, code: Code): F {
  if (code === 'shared') return factory;
  try {
    // esbuild and its kin (keepNames) wrap inner functions in __name(f, "f"): the copy gets one that does nothing.
    const make = new Function('__name', `'use strict'; return (${factory.toString()});`) as (
      name: (f: unknown) => unknown,
    ) => F;
    return make((f) => f);
  } catch (error) {
    if (error instanceof EvalError) return factory; // the policy's own error; anything else is a bug in the factory
    throw error;
  }
}
