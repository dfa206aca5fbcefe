

types2
x-z#
tensorflow::TensorList	ÿÿÿÿÿÿÿÿ