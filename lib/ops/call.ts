// What every op does with its tensor arguments: tensors go through as they are; plain inputs become tensors on the device
// of the first Tensor argument, and are freed when the op is queued.
import { device } from '../device.js'
import { dtypeNumber } from '../dtype.js'
import { shown, typeError } from '../errors.js'
import { type Handle, native } from '../native.js'
import { plainOf } from '../plain.js'
import { Tensor, type TensorInput, wrap } from '../tensor.js'

const isTensor = Tensor.isTensor
const handleOf = Tensor.handleOf

/** Whether none of the arguments is a plain input, which is the common case and takes no bookkeeping. */
function allTensors(inputs: readonly (TensorInput | null | undefined)[]): boolean {
  for (const input of inputs) if (input !== undefined && input !== null && !isTensor(input)) return false
  return true
}

/**
 * Calls `run` with the inputs' handles. `names` are theirs, for errors: required ones come first and are marked so by
 * `required`, their number.
 */
export function call<R>(
  names: readonly string[],
  required: number,
  inputs: readonly (TensorInput | null | undefined)[],
  run: (handles: readonly (Handle | undefined)[]) => R,
): R {
  if (allTensors(inputs) && inputs.slice(0, required).every((t) => t !== undefined && t !== null)) {
    return run(inputs.map((t) => (t ? handleOf(t as Tensor) : undefined)))
  }
  const first = inputs.find((t) => isTensor(t)) as Tensor | undefined
  const home = (first ? first.device : device()).id
  const temporary: Handle[] = []
  try {
    const handles = inputs.map((input, i) => {
      if (isTensor(input)) return handleOf(input)
      if (i >= required && (input === undefined || input === null)) return undefined
      const plain = plainOf(input, names[i]!)
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
