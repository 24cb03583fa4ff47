// What every op does with its tensor arguments: tensors go through as they are; plain inputs become tensors on the device
// of the first Tensor argument, and are freed when the op is queued.
import { device } from '../device.js'
import { dtypeNumber } from '../dtype.js'
import { shown, typeError } from '../errors.js'
import { type Handle, native } from '../native.js'
import { Tensor, type TensorInput, plainInput, wrap } from '../tensor.js'

const isTensor = Tensor.isTensor
const handleOf = Tensor.handleOf

type Inputs = readonly (TensorInput | null | undefined)[]

/**
 * Calls `run` with the inputs' handles. `names` are theirs, for errors: required ones come first and are marked so by
 * `required`, their number.
 */
export function call<R>(
  names: readonly string[],
  required: number,
  inputs: Inputs,
  run: (handles: readonly (Handle | undefined)[]) => R,
): R {
  const handles: (Handle | undefined)[] = []
  for (let i = 0; i < inputs.length; i++) {
    const input = inputs[i]
    if (isTensor(input)) handles.push(handleOf(input))
    else if (i >= required && (input === undefined || input === null)) handles.push(undefined)
    else return callWithPlain(names, required, inputs, run)
  }
  return run(handles)
}

/** `call` where some input is a plain one. */
function callWithPlain<R>(
  names: readonly string[],
  required: number,
  inputs: Inputs,
  run: (handles: readonly (Handle | undefined)[]) => R,
): R {
  const first = inputs.find((t) => isTensor(t)) as Tensor | undefined
  const home = (first ? first.device : device()).id
  const temporary: Handle[] = []
  try {
    const handles = inputs.map((input, i) => {
      if (isTensor(input)) return handleOf(input)
      if (i >= required && (input === undefined || input === null)) return undefined
      const plain = plainInput(input, names[i]!)
      const handle = native.fromHost(home, dtypeNumber(plain.dtype), plain.shape, plain.data)
      temporary.push(handle)
      return handle
    })
    return run(handles)
  } finally {
    for (const handle of temporary) native.dispose(handle)
  }
}

/** One result, or two, as tensors. */
export function one(result: Handle | [Handle, Handle]): Tensor {
  return wrap(result as Handle)
}
export function two(result: Handle | [Handle, Handle]): [Tensor, Tensor] {
  const [a, b] = result as [Handle, Handle]
  return [wrap(a), wrap(b)]
}

/** An argument that is changed in place can only be a Tensor: a plain input would be a copy. */
export function inPlace(input: unknown, name: string): void {
  if (!isTensor(input)) throw typeError('ERR_DTYPE', name, 'a Tensor, since it is changed in place', shown(input))
}
