"""User studies: which questions people are asked, their answers, and what follows from them."""
