"""Operations between the matrix products of a layer, in one kernel each where a device has it."""
